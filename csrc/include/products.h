// Small matrix products with both factors in the caches and the sums in registers.
#pragma once

#include <type_traits>

#include "vectors.h"

namespace sdst {

constexpr int64_t kPanel = 16;  // columns at a time: two vectors of sums for every row

SDST_INLINE int64_t whole_panels(int64_t columns) {
    return (columns + kPanel - 1) / kPanel * kPanel;
}

// A matrix in memory whose element (i, j) is data[i * row + j * column].
struct Matrix {
    const float* data;
    int64_t row, column = 1;
};

// out[R, kPanel] = sum_k a[R, k] b[k, kPanel], added to the existing values if `accumulate`.
template <int R>
SDST_INLINE void multiply_panel(const Matrix& a, const float* b, int64_t b_row, int64_t inner,
                                float* out, int64_t out_row, bool accumulate) {
    Lanes left[R], right[R];
    for (int r = 0; r < R; ++r) {
        left[r] = accumulate ? load<Lanes>(out + r * out_row) : Lanes{};
        right[r] = accumulate ? load<Lanes>(out + r * out_row + 8) : Lanes{};
    }
    const float* factor = a.data;
    for (int64_t k = 0; k < inner; ++k, b += b_row, factor += a.column) {
        const Lanes b_left = load<Lanes>(b), b_right = load<Lanes>(b + 8);
        for (int r = 0; r < R; ++r) {
            left[r] += factor[r * a.row] * b_left;
            right[r] += factor[r * a.row] * b_right;
        }
    }
    for (int r = 0; r < R; ++r) {
        store<Lanes>(out + r * out_row, left[r]);
        store<Lanes>(out + r * out_row + 8, right[r]);
    }
}

// out[rows, columns] = a[rows, inner] b[inner, columns], in whole panels of columns.
SDST_INLINE void multiply(Matrix a, const float* b, int64_t b_row, int64_t rows, int64_t inner,
                          int64_t columns, float* out, int64_t out_row, bool accumulate = false) {
    constexpr int most = 6;  // rows at a time: 12 sums, 2 vectors of b and a factor in registers
    for (int64_t column = 0; column < columns; column += kPanel) {
        const auto panel = [&](auto count, int64_t r) SDST_INLINED {
            multiply_panel<decltype(count)::value>({a.data + r * a.row, a.row, a.column},
                                                   b + column, b_row, inner,
                                                   out + r * out_row + column, out_row, accumulate);
        };
        int64_t r = 0;
        for (; r + most <= rows; r += most) panel(std::integral_constant<int, most>(), r);
        switch (rows - r) {
            case 5:
                panel(std::integral_constant<int, 5>(), r);
                break;
            case 4:
                panel(std::integral_constant<int, 4>(), r);
                break;
            case 3:
                panel(std::integral_constant<int, 3>(), r);
                break;
            case 2:
                panel(std::integral_constant<int, 2>(), r);
                break;
            case 1:
                panel(std::integral_constant<int, 1>(), r);
                break;
        }
    }
}

}  // namespace sdst
