// bf16 multiplies, summed in fp32, on CPUs that have them (AVX512_BF16): four
// times as fast there as those of fp32.
#pragma once

#include <cstdint>

namespace sdst {

bool multiplies_bf16();

// Of the weights of a layer from `inner` numbers to a panel of columns: [pairs, kPanel, 2].
constexpr int64_t bf16_pairs(int64_t inner) { return (inner + 1) / 2; }

// A layer: out = a W^T + bias in whole panels of columns, max(0, .) of it if `relu`.
struct Bf16Layer {
    int64_t inner, columns;
    const uint16_t* weight;  // [columns / kPanel, pairs, kPanel, 2], 0 behind an odd `inner`
    const float* bias;       // [columns]
    bool relu;
};

// `rounded` is memory for rows x 2 bf16_pairs(inner) numbers.
void apply(const Bf16Layer& layer, const float* a, int64_t a_row, int64_t rows, uint16_t* rounded,
           float* out, int64_t out_row);

}  // namespace sdst
