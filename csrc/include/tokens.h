// Reading the frozen token store, whatever dtype it has, eight floats at a time; and
// writing in fp32, fp16 and bf16.
#pragma once

#include "sdst.h"
#include "vectors.h"

#ifdef SDST_CLONES
#include <immintrin.h>
#endif

namespace sdst {

// Dtypes of a store, as kernels/library.py numbers them.
enum class Type : int32_t { fp32 = 0, fp16 = 1, bf16 = 2, int8 = 3 };

struct Half {
    uint16_t bits;
};

struct BFloat {
    uint16_t bits;
};

typedef uint32_t Words __attribute__((vector_size(32)));

// Eight neighbouring T with their sign extended. Named one by one, a compiler sees one instruction
// in them, and in a converted vector several.
template <class T>
SDST_INLINE Integers extend(const void* p) {
    T x[8];
    std::memcpy(x, p, sizeof(x));
    return Integers{x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]};
}

SDST_INLINE Lanes widen(const float* p) { return load<Lanes>(p); }

SDST_INLINE Lanes widen(const int8_t* p) {
    return __builtin_convertvector(extend<int8_t>(p), Lanes);
}

SDST_INLINE Lanes widen(const BFloat* p) {
    return reinterpret_cast<Lanes>(reinterpret_cast<Words>(extend<int16_t>(p)) << 16);
}

// Sign, exponent and fraction move into place, the sign by extension; the multiplication corrects
// the exponent's bias and makes subnormal numbers normal. Infinity and NaN get an exponent of all
// ones.
SDST_INLINE Lanes widen(const Half* p) {
    const Words half = reinterpret_cast<Words>(extend<int16_t>(p));
    const Lanes scaled = reinterpret_cast<Lanes>((half << 13) & 0x8fffe000) * 0x1p112f;
    const Words special = reinterpret_cast<Words>((half & 0x7c00) == 0x7c00) & 0x7f800000;
    return reinterpret_cast<Lanes>(reinterpret_cast<Words>(scaled) | special);
}

// The last `count` < 8 numbers of a row, zeros after them.
template <class T>
SDST_INLINE Lanes widen(const T* p, int64_t count) {
    T padded[8] = {};
    std::memcpy(padded, p, static_cast<size_t>(count) * sizeof(T));
    return widen(padded);
}

SDST_INLINE void narrow(const Lanes& x, float* p) { store<Lanes>(p, x); }

// To the nearest number, of two as near to the even one; a NaN stays one.
SDST_INLINE void narrow(const Lanes& x, BFloat* p) {
    typedef uint16_t Halves __attribute__((vector_size(16)));
    const Words bits = reinterpret_cast<Words>(x);
    const Words rounded = bits + 0x7fff + (bits >> 16 & 1), quiet = bits | 0x400000;
    const Words nan = reinterpret_cast<Words>(x != x);
    const Halves high = __builtin_convertvector(((rounded & ~nan) | (quiet & nan)) >> 16, Halves);
    std::memcpy(p, &high, sizeof(high));
}

// As above. Subnormal halves are rounded by adding 0.5, whose last place is theirs; from 65520 on
// they are infinite.
SDST_INLINE void narrow(const Lanes& x, Half* p) {
    typedef uint16_t Halves __attribute__((vector_size(16)));
    const Words all = reinterpret_cast<Words>(x), sign = all & 0x80000000, bits = all ^ sign;
    const Words normal = (bits - 0x37fff001 + (bits >> 13 & 1)) >> 13;
    const Lanes shifted = reinterpret_cast<Lanes>(bits) + 0.5f;
    const Words small = reinterpret_cast<Words>(shifted) - 0x3f000000;
    const Words below = reinterpret_cast<Words>(bits < 0x38800000);
    const Words above = reinterpret_cast<Words>(bits >= 0x47800000);
    const Words nan = reinterpret_cast<Words>(x != x);
    const Words finite = (small & below) | (normal & ~below);
    const Words special = (nan & 0x7e00) | (~nan & 0x7c00);
    const Words half = (finite & ~above) | (special & above) | sign >> 16;
    const Halves low = __builtin_convertvector(half, Halves);
    std::memcpy(p, &low, sizeof(low));
}

// The first `count` < 8 of them.
template <class T>
SDST_INLINE void narrow(const Lanes& x, T* p, int64_t count) {
    T all[8];
    narrow(x, all);
    std::memcpy(p, all, static_cast<size_t>(count) * sizeof(T));
}

// <x, y> of a token x and a vector y.
template <class T>
SDST_INLINE float dot(const T* x, const float* y, int64_t width) {
    Lanes a = {}, b = {};
    int64_t d = 0;
    for (; d + 16 <= width; d += 16) {
        a += widen(x + d) * load<Lanes>(y + d);
        b += widen(x + d + 8) * load<Lanes>(y + d + 8);
    }
    for (; d + 8 <= width; d += 8) a += widen(x + d) * load<Lanes>(y + d);
    if (d < width) b += widen(x + d, width - d) * widen(y + d, width - d);
    return sum(a + b);
}

// y += a x of a token x.
template <class T>
SDST_INLINE void accumulate(float a, const T* x, float* y, int64_t width) {
    int64_t d = 0;
    for (; d + 8 <= width; d += 8) add<Lanes>(y + d, a * widen(x + d));
    if (d < width) {
        const Lanes rest = a * widen(x + d, width - d);
        for (int64_t i = 0; d + i < width; ++i) y[d + i] += rest[i];
    }
}

#ifdef SDST_CLONES
// Where the processor widens eight halves in one instruction, a row of them is read so. Not
// inlined: the instruction belongs to no level of x86-64 that all clones have.
#define SDST_F16C __attribute__((target("avx2,fma,f16c")))

inline const bool kHasF16c = __builtin_cpu_supports("f16c") && __builtin_cpu_supports("avx2") &&
                             __builtin_cpu_supports("fma");

SDST_F16C inline Lanes widen_f16c(const Half* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// `width` is a multiple of 8.
SDST_F16C inline float dot_f16c(const Half* x, const float* y, int64_t width) {
    Lanes a = {}, b = {};
    int64_t d = 0;
    for (; d + 16 <= width; d += 16) {
        a += widen_f16c(x + d) * load<Lanes>(y + d);
        b += widen_f16c(x + d + 8) * load<Lanes>(y + d + 8);
    }
    if (d < width) a += widen_f16c(x + d) * load<Lanes>(y + d);
    return sum(a + b);
}

SDST_F16C inline void accumulate_f16c(float a, const Half* x, float* y, int64_t width) {
    for (int64_t d = 0; d < width; d += 8) add<Lanes>(y + d, a * widen_f16c(x + d));
}

SDST_INLINE float dot(const Half* x, const float* y, int64_t width) {
    const int64_t whole = kHasF16c ? width / 8 * 8 : 0;
    const float first = whole ? dot_f16c(x, y, whole) : 0;
    return whole < width ? first + dot<Half>(x + whole, y + whole, width - whole) : first;
}

SDST_INLINE void accumulate(float a, const Half* x, float* y, int64_t width) {
    const int64_t whole = kHasF16c ? width / 8 * 8 : 0;
    if (whole) accumulate_f16c(a, x, y, whole);
    if (whole < width) accumulate<Half>(a, x + whole, y + whole, width - whole);
}
#endif

// Calls body(T*) with the store's type.
template <class Body>
SDST_INLINE void with_type(Type type, const void* tokens, const Body& body) {
    switch (type) {
        case Type::fp32:
            return body(static_cast<const float*>(tokens));
        case Type::fp16:
            return body(static_cast<const Half*>(tokens));
        case Type::bf16:
            return body(static_cast<const BFloat*>(tokens));
        case Type::int8:
            return body(static_cast<const int8_t*>(tokens));
    }
}

}  // namespace sdst
