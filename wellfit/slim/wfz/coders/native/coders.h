/* What the coders' files share. Portable C11 for GCC, Clang and MSVC, without Python and without intrinsics; loaded with
 * ctypes. Every function checks all bounds itself, allocates nothing, and returns a negative number for data that cannot
 * be. */
#ifndef WELLFIT_CODERS_H
#define WELLFIT_CODERS_H

#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#elif defined(__GNUC__)
#define EXPORT __attribute__((visibility("default")))
#else
#define EXPORT
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#define WFZ_ABI 1
#define TOO_SHORT (-1) /* data (or room for them) ended too soon */
#define IMPOSSIBLE (-2) /* no encoder writes this */

/* Eight bytes, the first one lowest; compilers make one load of it where the machine is little-endian. */
INLINE uint64_t load64(const uint8_t *from) {
    return (uint64_t)from[0] | (uint64_t)from[1] << 8 | (uint64_t)from[2] << 16 | (uint64_t)from[3] << 24 |
           (uint64_t)from[4] << 32 | (uint64_t)from[5] << 40 | (uint64_t)from[6] << 48 | (uint64_t)from[7] << 56;
}

#endif
