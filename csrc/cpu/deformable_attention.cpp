// Deformable attention over time: for every batch b, query m and head h
//
//     x_s = p_s L - 0.5,   i = floor(x_s),   f = x_s - i
//     out = sum_s A_s ((1 - f) v_i + f v_{i+1})        taps outside of [0, L) are 0
//
// value [B, L, H, C]; points p, weights A [B, M, H, S]; out [B, M, H, C]; all contiguous fp32.
// lengths [B] or null are the valid L; what lies beyond is neither read nor given a gradient.
#include <algorithm>
#include <cmath>

#include "parallel.h"
#include "sdst.h"
#include "vectors.h"

namespace sdst {
namespace {

struct Shape {
    int64_t batch, length, queries, heads, channels, samples;
};

// The two taps of one sample. Outside of the video a tap points at some valid clip with weight 0,
// so reading needs no branch. A point that is NaN makes both weights NaN.
struct Taps {
    int64_t left, right;
    float left_weight, right_weight;
    bool left_inside, right_inside;
};

SDST_INLINE Taps taps(float point, int64_t length) {
    const float size = static_cast<float>(length);
    const float x = point * size - 0.5f;
    const float i = std::floor(x);
    const float f = x - i;
    const float last = size - 1;
    Taps t;
    t.left_inside = !(i < 0 || i > last);
    t.right_inside = !(i < -1 || i > last - 1);
    t.left_weight = t.left_inside ? 1 - f : 0;
    t.right_weight = t.right_inside ? f : 0;
    // NaN fails every comparison and lands on clip 0.
    t.left = i > 0 ? static_cast<int64_t>(i < last ? i : last) : 0;
    t.right = i + 1 > 0 ? static_cast<int64_t>(i + 1 < last ? i + 1 : last) : 0;
    return t;
}

// N neighbouring channels, as vectors or single floats, of one query and head.
template <class T, int N>
SDST_INLINE void gather(const Shape& n, int64_t length, const float* value, const float* points,
                        const float* weights, float* out) {
    constexpr int64_t step = sizeof(T) / sizeof(float);
    const int64_t row = n.heads * n.channels;
    T sum[N] = {};
    for (int64_t s = 0; s < n.samples; ++s) {
        const Taps t = taps(points[s], length);
        const float a = weights[s] * t.left_weight, b = weights[s] * t.right_weight;
        const float *left = value + t.left * row, *right = value + t.right * row;
        for (int j = 0; j < N; ++j)
            sum[j] += a * load<T>(left + j * step) + b * load<T>(right + j * step);
    }
    for (int j = 0; j < N; ++j) store<T>(out + j * step, sum[j]);
}

struct Forward {
    Shape n;
    const float *value, *points, *weights;
    const int64_t* lengths;
    float* out;
};

// Rows are (batch, query) pairs; a row holds all heads.
SDST_MULTIVERSION void forward_rows(const Forward& x, int64_t begin, int64_t end) {
    const Shape& n = x.n;
    for (int64_t row = begin; row < end; ++row) {
        const int64_t batch = row / n.queries;
        const int64_t length = x.lengths ? x.lengths[batch] : n.length;
        const float* points = x.points + row * n.heads * n.samples;
        const float* weights = x.weights + row * n.heads * n.samples;
        float* out = x.out + row * n.heads * n.channels;
        if (length <= 0) {
            std::fill(out, out + n.heads * n.channels, 0.0f);
            continue;
        }
        for (int64_t h = 0; h < n.heads; ++h, points += n.samples, weights += n.samples) {
            const float* value = x.value + (batch * n.length * n.heads + h) * n.channels;
            int64_t c = 0;
            for (; c + 32 <= n.channels; c += 32, out += 32)
                gather<Lanes, 4>(n, length, value + c, points, weights, out);
            for (; c + 8 <= n.channels; c += 8, out += 8)
                gather<Lanes, 1>(n, length, value + c, points, weights, out);
            for (; c < n.channels; ++c, ++out)
                gather<float, 1>(n, length, value + c, points, weights, out);
        }
    }
}

// <v_i, g> and <v_{i+1}, g>
struct Products {
    float left, right;
};

// Adds one sample's share to the gradient of its two rows, and gives what A and p need.
SDST_INLINE Products scatter(int64_t channels, float a, float b, const float* g, const float* left,
                             const float* right, float* grad_left, float* grad_right) {
    Lanes left_sum = {}, right_sum = {};
    int64_t c = 0;
    for (; c + 8 <= channels; c += 8) {
        const Lanes gradient = load<Lanes>(g + c);
        left_sum += load<Lanes>(left + c) * gradient;
        right_sum += load<Lanes>(right + c) * gradient;
        // One after the other: at the ends of the video both taps may be the same row.
        add<Lanes>(grad_left + c, a * gradient);
        add<Lanes>(grad_right + c, b * gradient);
    }
    Products sum = {0, 0};
    for (; c < channels; ++c) {
        sum.left += left[c] * g[c];
        sum.right += right[c] * g[c];
        grad_left[c] += a * g[c];
        grad_right[c] += b * g[c];
    }
    for (int j = 0; j < 8; ++j) {
        sum.left += left_sum[j];
        sum.right += right_sum[j];
    }
    return sum;
}

struct Backward {
    Shape n;
    const float *grad, *value, *points, *weights;
    const int64_t* lengths;
    float *grad_value, *grad_points, *grad_weights;
};

// A task is a (batch, head) pair and owns its slice of every gradient: no atomics, and the same
// bits whatever the number of threads.
//
//     dv_i += A (1 - f) g    dv_{i+1} += A f g    dA = <y, g>    dp = L A <v_{i+1} - v_i, g>
SDST_MULTIVERSION void backward_pairs(const Backward& x, int64_t begin, int64_t end) {
    const Shape& n = x.n;
    const int64_t row = n.heads * n.channels;
    for (int64_t pair = begin; pair < end; ++pair) {
        const int64_t batch = pair / n.heads, head = pair % n.heads;
        const int64_t length = x.lengths ? x.lengths[batch] : n.length;
        const int64_t first = (batch * n.length * n.heads + head) * n.channels;
        for (int64_t i = 0; i < n.length; ++i)
            std::fill_n(x.grad_value + first + i * row, n.channels, 0.0f);
        for (int64_t m = 0; m < n.queries; ++m) {
            const int64_t group = (batch * n.queries + m) * n.heads + head;
            const float* g = x.grad + group * n.channels;
            for (int64_t s = group * n.samples; s < (group + 1) * n.samples; ++s) {
                if (length <= 0) {
                    x.grad_points[s] = x.grad_weights[s] = 0;
                    continue;
                }
                const Taps t = taps(x.points[s], length);
                const int64_t left = first + t.left * row, right = first + t.right * row;
                const float a = x.weights[s];
                const Products dot =
                    scatter(n.channels, a * t.left_weight, a * t.right_weight, g, x.value + left,
                            x.value + right, x.grad_value + left, x.grad_value + right);
                x.grad_weights[s] = t.left_weight * dot.left + t.right_weight * dot.right;
                x.grad_points[s] =
                    static_cast<float>(length) * a *
                    ((t.right_inside ? dot.right : 0) - (t.left_inside ? dot.left : 0));
            }
        }
    }
}

// Tasks that make a range worth a thread of its own: about 20 microseconds of multiply-adds.
int64_t grain(int64_t channels_per_task) { return 1 + (1 << 17) / (channels_per_task + 1); }

}  // namespace
}  // namespace sdst

SDST_API void sdst_deformable_attention_forward(const float* value, const float* points,
                                                const float* weights, const int64_t* lengths,
                                                float* out, int64_t batch, int64_t length,
                                                int64_t queries, int64_t heads, int64_t channels,
                                                int64_t samples, int32_t threads) {
    const sdst::Forward x{
        {batch, length, queries, heads, channels, samples}, value, points, weights, lengths, out};
    sdst::parallel_for(batch * queries, sdst::grain(heads * samples * channels), threads,
                       [&](int64_t begin, int64_t end) { sdst::forward_rows(x, begin, end); });
}

SDST_API void sdst_deformable_attention_backward(const float* grad, const float* value,
                                                 const float* points, const float* weights,
                                                 const int64_t* lengths, float* grad_value,
                                                 float* grad_points, float* grad_weights,
                                                 int64_t batch, int64_t length, int64_t queries,
                                                 int64_t heads, int64_t channels, int64_t samples,
                                                 int32_t threads) {
    const sdst::Backward x{{batch, length, queries, heads, channels, samples},
                           grad,
                           value,
                           points,
                           weights,
                           lengths,
                           grad_value,
                           grad_points,
                           grad_weights};
    const int64_t channels_per_task = (length + 2 * queries * samples) * channels;
    sdst::parallel_for(batch * heads, sdst::grain(channels_per_task), threads,
                       [&](int64_t begin, int64_t end) { sdst::backward_pairs(x, begin, end); });
}
