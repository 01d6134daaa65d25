// Eight floats at a time, in whatever registers the processor has for them.
#pragma once

#include <cstdint>

// Compiles a function once per instruction set and picks at load time, so that one build runs anywhere
// and fast. Everything it calls must be inlined into it (SDST_INLINE) to be compiled with it.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define SDST_MULTIVERSION __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SDST_MULTIVERSION
#endif
#define SDST_INLINE inline __attribute__((always_inline))

namespace sdst {

// Unaligned, and allowed to lie over an array of floats.
typedef float Lanes __attribute__((vector_size(32), aligned(4), may_alias));

SDST_INLINE const Lanes& lanes(const float* p) {
    return *reinterpret_cast<const Lanes*>(p);
}
SDST_INLINE Lanes& lanes(float* p) {
    return *reinterpret_cast<Lanes*>(p);
}

}  // namespace sdst
