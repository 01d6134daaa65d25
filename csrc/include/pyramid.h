// The temporal pyramid over the frozen store (kernels/pyramid.py), read as it is defined: level r
// holds ceil(L / stride_r) steps of P tokens, each the mean of its window's valid clips; the levels
// are concatenated, and an index is a place therein.
#pragma once

#include <algorithm>

#include "tokens.h"

namespace sdst {

struct Pyramid {
    Type type;
    const void* tokens;      // [B, L, P, D]
    int64_t apart;           // from a sample's tokens to the next one's; 0: all share one sample
    const float* scales;     // [B, L, P], what a stored token is multiplied by; null: by nothing
    const int64_t* lengths;  // [B], valid clips; null: all
    const int64_t* strides;  // [levels]
    int64_t levels, length, per_clip, width;

    int64_t valid_length(int64_t sample) const {
        return lengths ? std::clamp<int64_t>(lengths[sample], 0, length) : length;
    }
};

// Clips [start, stop) behind an index, and which of their tokens.
struct Window {
    int64_t start, stop, token;
};

SDST_INLINE Window locate(const Pyramid& x, int64_t sample, int64_t index) {
    int64_t stride = 1;
    for (int64_t level = 0; level < x.levels; ++level) {
        stride = x.strides[level];
        const int64_t size = (x.length + stride - 1) / stride * x.per_clip;
        if (index < size) break;
        index -= size;
    }
    const int64_t start = index / x.per_clip * stride;
    const int64_t stop = std::min(start + stride, x.valid_length(sample));
    return {start, std::max(start + 1, stop), index % x.per_clip};
}

// out += weight * (entry `index` of the sample's pyramid), channels [channel, channel + count) of
// it.
SDST_INLINE void add_entry(const Pyramid& x, int64_t sample, int64_t index, float weight,
                           int64_t channel, int64_t count, float* out) {
    const Window window = locate(x, sample, index);
    weight /= static_cast<float>(window.stop - window.start);
    for (int64_t clip = window.start; clip < window.stop; ++clip) {
        const int64_t token = clip * x.per_clip + window.token;
        const int64_t row = sample * x.length * x.per_clip + token;
        const float factor = x.scales ? weight * x.scales[row] : weight;
        with_type(x.type, x.tokens, [&](const auto* tokens) SDST_INLINED {
            const auto* source = tokens + sample * x.apart + token * x.width;
            accumulate(factor, source + channel, out, count);
        });
    }
}

}  // namespace sdst
