/* For every processor of the architecture; on x86-64 that is SSE2. */
#define CHUNK_LOOP chunk_loop_plain
#include "chunk_loop.h"
