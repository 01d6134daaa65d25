// Eight floats at a time, in whatever registers the processor has for them.
#pragma once

#include <cstring>

// Compiles a function once per instruction set and picks at load time, so that one build runs
// anywhere and fast. Everything it calls must be inlined into it (SDST_INLINE) to be compiled with
// it.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define SDST_MULTIVERSION \
    __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SDST_MULTIVERSION
#endif
#define SDST_INLINE inline __attribute__((always_inline))

namespace sdst {

typedef float Lanes __attribute__((vector_size(32)));

// T is Lanes or float; p needs no alignment beyond a float's.
template <class T>
SDST_INLINE T load(const float* p) {
    T values;
    std::memcpy(&values, p, sizeof(T));
    return values;
}

template <class T>
SDST_INLINE void store(float* p, const T& values) {
    std::memcpy(p, &values, sizeof(T));
}

template <class T>
SDST_INLINE void add(float* p, const T& values) {
    store<T>(p, load<T>(p) + values);
}

}  // namespace sdst
