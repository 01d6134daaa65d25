// Reading the frozen token store, whatever number type it is kept in, eight floats at a time.
#pragma once

#include "sdst.h"
#include "vectors.h"

namespace sdst {

// Number types of a store, as kernels/library.py numbers them.
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
