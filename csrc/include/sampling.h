// Deformable attention over time, as csrc/cpu/deformable_attention.cpp computes it.
#pragma once

#include <algorithm>
#include <cstdint>

namespace sdst {

struct SamplingShape {
    int64_t batch, length, queries, heads, channels, samples;

    int64_t row() const { return heads * channels; }
};

struct Samplings {
    SamplingShape n;
    const float *value, *references, *offsets, *logits;
    const int64_t* lengths;

    int64_t length(int64_t batch) const {
        return lengths ? std::clamp<int64_t>(lengths[batch], 0, n.length) : n.length;
    }
};

// The rows [begin, end) of out; a row is a batch and query, and holds all heads.
void sample(const Samplings& x, float* out, int64_t begin, int64_t end);

}  // namespace sdst
