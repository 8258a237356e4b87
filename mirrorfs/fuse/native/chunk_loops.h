/* The loops that chunk_loop.h makes: 16 bytes are written to `digests` for each chunk. */
#ifndef CHUNK_LOOPS_H
#define CHUNK_LOOPS_H

#include <stddef.h>
#include <stdint.h>

enum { DIGEST_BYTES = 16 };

typedef void chunk_loop(const char *from, size_t left, size_t chunk_bytes, uint64_t seed,
                        char *digests);
extern chunk_loop chunk_loop_plain;
#if defined(__x86_64__)
extern chunk_loop chunk_loop_avx2; /* only where the processor has AVX2 */
#endif

#endif
