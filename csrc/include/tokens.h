// Reading the frozen token store, whatever number type it is kept in, eight floats at a time.
#pragma once

#include "sdst.h"
#include "vectors.h"

namespace sdst {

// Number types of a store, as kernels/library.py numbers them.
enum class Type : int32_t { fp32 = 0, fp16 = 1, bf16 = 2 };

struct Half {
    uint16_t bits;
};

struct BFloat {
    uint16_t bits;
};

typedef uint32_t Words __attribute__((vector_size(32)));
typedef uint16_t Shorts __attribute__((vector_size(16)));

SDST_INLINE Words words(const void* p) {
    Shorts shorts;
    std::memcpy(&shorts, p, sizeof(shorts));
    return __builtin_convertvector(shorts, Words);
}

SDST_INLINE Lanes widen(const float* p) { return load<Lanes>(p); }

SDST_INLINE Lanes widen(const BFloat* p) { return reinterpret_cast<Lanes>(words(p) << 16); }

// Exponent and fraction move into place; the multiplication corrects the exponent's bias and makes
// subnormal numbers normal. Infinity and NaN keep an exponent of all ones.
SDST_INLINE Lanes widen(const Half* p) {
    const Words half = words(p);
    const Words magnitude = (half & 0x7fff) << 13;
    const Words scaled = reinterpret_cast<Words>(reinterpret_cast<Lanes>(magnitude) * 0x1p112f);
    const Words special = reinterpret_cast<Words>((half & 0x7c00) == 0x7c00) & 0x7f800000;
    return reinterpret_cast<Lanes>(scaled | special | (half & 0x8000) << 16);
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
void with_type(Type type, const void* tokens, const Body& body) {
    switch (type) {
        case Type::fp32:
            return body(static_cast<const float*>(tokens));
        case Type::fp16:
            return body(static_cast<const Half*>(tokens));
        case Type::bf16:
            return body(static_cast<const BFloat*>(tokens));
    }
}

}  // namespace sdst
