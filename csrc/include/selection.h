// What keeping the best tokens of a temporal pyramid means, on every device: how the budget is
// split, where a segment of time begins, and the order of the scores.
#pragma once

#include <cstdint>
#include <cstring>

#include "sdst.h"

namespace sdst {

SDST_DEVICE inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Where the share of `part` begins when `total` is split into `parts`, and how much it is; the
// first ones take the remainder.
SDST_DEVICE inline int64_t share_begin(int64_t total, int64_t parts, int64_t part) {
    const int64_t remainder = total % parts;
    return total / parts * part + (part < remainder ? part : remainder);
}

SDST_DEVICE inline int64_t share(int64_t total, int64_t parts, int64_t part) {
    return total / parts + (part < total % parts);
}

// The first step of a level that is in `segment`: step t does in floor(t stride segments /
// length). That of segment `segments` ends the valid steps.
SDST_DEVICE inline int64_t first_step(int64_t length, int64_t stride, int64_t segments,
                                      int64_t segment) {
    return ceil_div(segment * length, segments * stride);
}

// The mean over `clips` raw scores, a clip's `per_clip` apart.
SDST_DEVICE inline float mean_score(const float* scores, int64_t clips, int64_t per_clip) {
    float total = 0;
    for (int64_t i = 0; i < clips; ++i) total += scores[i * per_clip];
    return total / static_cast<float>(clips);
}

// A score and the index it belongs to in one integer whose order is "higher score, then lower
// index" and has no ties. No key is 0.
constexpr int kIndexBits = 30;
constexpr uint64_t kIndexMask = (uint64_t{1} << kIndexBits) - 1;

SDST_DEVICE inline uint64_t to_key(float score, int64_t index) {
    score += 0.0f;  // -0 counts as 0
    uint32_t bits;
    std::memcpy(&bits, &score, sizeof(bits));
    bits = bits >> 31 ? ~bits : bits | 0x80000000;
    return uint64_t{bits} << kIndexBits | (kIndexMask - static_cast<uint64_t>(index));
}

SDST_DEVICE inline int64_t key_index(uint64_t key) {
    return static_cast<int64_t>(kIndexMask - (key & kIndexMask));
}

SDST_DEVICE inline float key_score(uint64_t key) {
    uint32_t bits = static_cast<uint32_t>(key >> kIndexBits);
    bits = bits >> 31 ? bits & 0x7fffffff : ~bits;
    float score;
    std::memcpy(&score, &bits, sizeof(score));
    return score;
}

}  // namespace sdst
