#include "bf16.h"

#include "products.h"
#include "sdst.h"

#if defined(__x86_64__) && __has_include(<avx512bf16intrin.h>)
#define SDST_HAS_BF16
#include <immintrin.h>
#define SDST_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#endif

namespace sdst {

#ifdef SDST_HAS_BF16
namespace {

constexpr int kMost = 12;  // rows at a time: with two panels 24 sums, 2 vectors of weights

// To the nearest, 0 behind an odd number of them.
SDST_BF16 void round_rows(const float* a, int64_t a_row, int64_t rows, int64_t inner,
                          uint16_t* out) {
    const int64_t out_row = 2 * bf16_pairs(inner);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < inner; k += 16) {
            const auto up_to = [k](int64_t width) {
                return static_cast<__mmask16>(width - k < 16 ? (1 << (width - k)) - 1 : 0xffff);
            };
            const __m512 x = _mm512_maskz_loadu_ps(up_to(inner), a + r * a_row + k);
            _mm256_mask_storeu_epi16(out + r * out_row + k, up_to(out_row),
                                     (__m256i)_mm512_cvtneps_pbh(x));
        }
}

// R rows by P panels of columns.
template <int R, int P>
SDST_BF16 void multiply(const Bf16Layer& layer, const uint16_t* a, int64_t column, float* out,
                        int64_t out_row) {
    const int64_t pairs = bf16_pairs(layer.inner);
    const uint16_t* weight = layer.weight + column * 2 * pairs;
    __m512 sums[R][P];
    for (int p = 0; p < P; ++p)
        for (int r = 0; r < R; ++r) sums[r][p] = _mm512_loadu_ps(layer.bias + column + p * kPanel);
    for (int64_t k = 0; k < pairs; ++k) {
        __m512bh w[P];
        for (int p = 0; p < P; ++p)
            w[p] = (__m512bh)_mm512_loadu_si512(weight + (p * pairs + k) * 2 * kPanel);
        for (int r = 0; r < R; ++r) {
            int32_t pair;
            std::memcpy(&pair, a + 2 * (r * pairs + k), sizeof(pair));
            const __m512bh factor = (__m512bh)_mm512_set1_epi32(pair);
            for (int p = 0; p < P; ++p) sums[r][p] = _mm512_dpbf16_ps(sums[r][p], factor, w[p]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p) {
            __m512 sum = sums[r][p];
            if (layer.relu) sum = _mm512_max_ps(_mm512_setzero_ps(), sum);  // NaN stays
            _mm512_storeu_ps(out + r * out_row + p * kPanel, sum);
        }
}

template <int P>
void multiply_rows(const Bf16Layer& layer, const uint16_t* a, int64_t rows, int64_t column,
                   float* out, int64_t out_row) {
    using Multiply = void (*)(const Bf16Layer&, const uint16_t*, int64_t, float*, int64_t);
    static constexpr Multiply of_rows[kMost] = {
        multiply<1, P>, multiply<2, P>,  multiply<3, P>,  multiply<4, P>,
        multiply<5, P>, multiply<6, P>,  multiply<7, P>,  multiply<8, P>,
        multiply<9, P>, multiply<10, P>, multiply<11, P>, multiply<12, P>,
    };
    const int64_t blocks = (rows + kMost - 1) / kMost, pairs = bf16_pairs(layer.inner);
    for (int64_t i = 0; i < blocks; ++i) {  // about equal ones
        const int64_t first = rows * i / blocks, end = rows * (i + 1) / blocks;
        of_rows[end - first - 1](layer, a + first * 2 * pairs, column,
                                 out + first * out_row + column, out_row);
    }
}

}  // namespace

bool multiplies_bf16() {
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bf16");
}

void apply(const Bf16Layer& layer, const float* a, int64_t a_row, int64_t rows, uint16_t* rounded,
           float* out, int64_t out_row) {
    round_rows(a, a_row, rows, layer.inner, rounded);
    int64_t column = 0;
    for (; column + 2 * kPanel <= layer.columns; column += 2 * kPanel)
        multiply_rows<2>(layer, rounded, rows, column, out, out_row);
    if (column < layer.columns) multiply_rows<1>(layer, rounded, rows, column, out, out_row);
}

#else

bool multiplies_bf16() { return false; }

// Not called where there are no such products.
void apply(const Bf16Layer&, const float*, int64_t, int64_t, uint16_t*, float*, int64_t) {}

#endif

}  // namespace sdst

SDST_API int32_t sdst_multiplies_bf16() { return sdst::multiplies_bf16(); }
