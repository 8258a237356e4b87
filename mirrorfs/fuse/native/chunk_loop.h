/* xxh3_128 of each chunk of a buffer, compiled once for each kind of processor: a source that includes
 * this has defined CHUNK_LOOP, the function's name. It knows nothing of Python. */
#include <stddef.h>
#include <stdint.h>

#define XXH_INLINE_ALL /* xxHash is compiled in from its header: nothing is linked with */
#include <xxhash.h>

#include "chunk_loops.h"

void CHUNK_LOOP(const char *from, size_t left, size_t chunk_bytes, uint64_t seed, char *digests)
{
    XXH128_canonical_t *to = (void *)digests;
    while (left > 0) {
        size_t length = left < chunk_bytes ? left : chunk_bytes;
        XXH128_canonicalFromHash(to++, XXH3_128bits_withSeed(from, length, seed));
        from += length;
        left -= length;
    }
}
