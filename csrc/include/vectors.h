// Eight floats at a time, in whatever registers the processor has for them.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>

// Compiles a function once per instruction set and picks at load time, so that one build runs
// anywhere and fast. Everything it calls must be inlined into it (SDST_INLINE) to be compiled with
// it.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define SDST_CLONES
#define SDST_MULTIVERSION \
    __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SDST_MULTIVERSION
#endif
#define SDST_INLINED __attribute__((always_inline))  // for lambdas
#define SDST_INLINE inline SDST_INLINED

namespace sdst {

typedef float Lanes __attribute__((vector_size(32)));
typedef int32_t Integers __attribute__((vector_size(32)));

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

SDST_INLINE float sum(const Lanes& x) {
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

SDST_INLINE float max(const Lanes& x) {
    float most = x[0];
    for (int i = 1; i < 8; ++i) most = x[i] > most ? x[i] : most;
    return most;
}

// Eight rows of eight floats, columns for rows.
SDST_INLINE void transpose(const float* x, int64_t step, float* out, int64_t out_step) {
    Lanes rows[8], pairs[8], fours[8];
    for (int i = 0; i < 8; ++i) rows[i] = load<Lanes>(x + i * step);
    for (int i = 0; i < 8; i += 2) {
        const Lanes &a = rows[i], &b = rows[i + 1];
        pairs[i] = Lanes{a[0], b[0], a[1], b[1], a[4], b[4], a[5], b[5]};
        pairs[i + 1] = Lanes{a[2], b[2], a[3], b[3], a[6], b[6], a[7], b[7]};
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; ++j) {
            const Lanes &a = pairs[i + j], &b = pairs[i + j + 2];
            fours[i + 2 * j] = Lanes{a[0], a[1], b[0], b[1], a[4], a[5], b[4], b[5]};
            fours[i + 2 * j + 1] = Lanes{a[2], a[3], b[2], b[3], a[6], a[7], b[6], b[7]};
        }
    for (int i = 0; i < 4; ++i) {
        const Lanes &a = fours[i], &b = fours[i + 4];
        store<Lanes>(out + i * out_step, Lanes{a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]});
        store<Lanes>(out + (i + 4) * out_step,
                     Lanes{a[4], a[5], a[6], a[7], b[4], b[5], b[6], b[7]});
    }
}

// e^x to two units in the last place for -87 <= x <= 88, and 0 below.
SDST_INLINE Lanes exponential(const Lanes& x) {
    const Lanes bounded = x < -87.0f ? Lanes{} - 87.0f : x;
    // x = n ln 2 + r; adding and taking away 1.5 * 2^23 rounds to the nearest integer, and ln 2 in
    // two parts keeps r exact.
    const Lanes n = (bounded * 1.44269504f + 12582912.0f) - 12582912.0f;
    const Lanes r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
    Lanes series = r * (1.0f / 5040) + 1.0f / 720;
    for (const float factor : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        series = series * r + factor;
    const Integers power = (__builtin_convertvector(n, Integers) + 127) << 23;
    return x < -87.0f ? Lanes{} : series * reinterpret_cast<Lanes>(power);
}

}  // namespace sdst
