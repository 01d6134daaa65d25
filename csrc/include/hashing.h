// Random numbers by hashing a place with a seed; see kernels/dropout/reference.py.
#pragma once

#include "tokens.h"

namespace sdst {

// The halves of a seed.
struct Seed {
    uint32_t low, high;

    explicit Seed(int64_t seed)
        : low(static_cast<uint32_t>(seed)),
          high(static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32)) {}
    Seed(uint32_t low, uint32_t high) : low(low), high(high) {}

    Seed exchanged() const { return {high, low}; }
};

// The numbers in [0, 2^32) of eight places from `first` on.
SDST_INLINE Words numbers(const Seed& seed, int64_t first) {
    const Words step{0, 1, 2, 3, 4, 5, 6, 7};
    Words x = (step + static_cast<uint32_t>(first)) * 0x9e3779b1u + seed.low;
    x = (x ^ x >> 16) * 0x7feb352du;
    x ^= seed.high;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

}  // namespace sdst
