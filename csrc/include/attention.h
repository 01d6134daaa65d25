// Attention of the rows of q to those of k and v, as csrc/cpu/dense_attention.cpp computes it.
#pragma once

#include <algorithm>

#include "products.h"

namespace sdst {

// q, k, v or a gradient: numbers from one video, row and head to the next.
struct Heads {
    const float* data;
    int64_t video, row, head;

    Matrix of(int64_t b, int64_t h) const { return {data + b * video + h * head, row}; }
};

struct Attention {
    static constexpr int64_t kTask = 384;  // queries for which keys and values are copied once

    int64_t batch, heads, queries, keys, channels;
    Heads q, k, v;
    const int64_t *query_lengths, *key_lengths;
    float scale;
    int64_t out_row;  // numbers from one row of the output to the next

    int64_t blocks() const { return (queries + kTask - 1) / kTask; }  // of a video and head
    int64_t tasks() const { return batch * heads * blocks(); }
    int64_t valid_queries(int64_t b) const { return valid(query_lengths, b, queries); }
    int64_t valid_keys(int64_t b) const { return valid(key_lengths, b, keys); }
    static int64_t valid(const int64_t* lengths, int64_t b, int64_t all) {
        return lengths ? std::clamp<int64_t>(lengths[b], 0, all) : all;
    }
    int64_t width() const { return whole_panels(channels); }  // of a row of channels, copied
    int64_t columns() const { return whole_panels(keys); }    // of a row of logits
};

// The tasks [begin, end) of out [B, M, H, C], whose heads are neighbours.
void attend(const Attention& a, float* out, int64_t begin, int64_t end);

}  // namespace sdst
