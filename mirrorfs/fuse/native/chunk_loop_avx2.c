/* For processors with AVX2. The pragma comes first, since xxHash chooses by what the compiler may use.
 * Clang does not know it: the function is then as fast as the plain one. */
#if defined(__x86_64__)
#if !defined(__clang__)
#pragma GCC target("avx2")
#endif
#define CHUNK_LOOP chunk_loop_avx2
#include "chunk_loop.h"
#endif
