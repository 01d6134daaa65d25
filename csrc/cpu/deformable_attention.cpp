// Deformable attention over time: for every batch b, query m and head h
//
//     p_s = center + offset_s width / 2,   A = softmax_s(logits)
//     x_s = p_s L - 0.5,   i = floor(x_s),   f = x_s - i
//     out = sum_s A_s ((1 - f) v_i + f v_{i+1})        taps outside of [0, L) are 0
//
// value [B, L, H, C]; references (center, width) [B, M, 2]; offsets, logits [B, M, H, S];
// out [B, M, H, C]; all contiguous fp32. lengths [B] or null are the valid L; padding is
// neither read nor given a gradient.
#include <algorithm>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "sampling.h"
#include "sdst.h"
#include "vectors.h"

namespace sdst {
namespace {

// The samples of some neighbouring heads of one query, found eight at a time and without a branch.
// Outside of the video a tap points at some valid clip with share 0, so reading needs none either.
// A point that is NaN makes both shares NaN.
class Samples {
 public:
    const int64_t count;

    // Memory for `count` samples; what follows them up to a multiple of eight is never read.
    explicit Samples(int64_t count)
        : count(count), size_((count + 7) / 8 * 8), numbers_(7 * size_), clips_(2 * size_) {}

    const int32_t* left() const { return clips_.data(); }
    const int32_t* right() const { return left() + size_; }
    const float* weight() const { return numbers_.data(); }
    const float* left_share() const { return weight() + size_; }
    const float* right_share() const { return weight() + 2 * size_; }
    // What the shares grow by per unit of the point, where the tap is inside.
    const float* left_slope() const { return weight() + 3 * size_; }
    const float* right_slope() const { return weight() + 4 * size_; }

    // reference: center and width; offsets and logits [found / samples heads, samples].
    SDST_INLINE void find(int64_t found, int64_t samples, const float* reference,
                          const float* offsets, const float* logits, int64_t length) {
        float* weights = numbers_.data();
        float *positions = weights + 5 * size_, *exponents = weights + 6 * size_;
        const float size = static_cast<float>(length);
        const float center = reference[0] * size - 0.5f, half = reference[1] / 2 * size;
        for (int64_t j = 0; j < found; ++j) positions[j] = center + offsets[j] * half;
        for (int64_t first = 0; first < found; first += samples) {
            float top = logits[first];
            for (int64_t j = first; j < first + samples; ++j) top = std::max(top, logits[j]);
            for (int64_t j = first; j < first + samples; ++j) exponents[j] = logits[j] - top;
        }
        for (int64_t j = 0; j < found; j += 8) {
            place(load<Lanes>(positions + j), length, j);
            store<Lanes>(exponents + j, exponential(load<Lanes>(exponents + j)));
        }
        for (int64_t first = 0; first < found; first += samples) {
            float total = 0;
            for (int64_t j = first; j < first + samples; ++j) total += exponents[j];
            for (int64_t j = first; j < first + samples; ++j) weights[j] = exponents[j] / total;
        }
    }

 private:
    // The taps at positions x, in clips.
    SDST_INLINE void place(Lanes x, int64_t length, int64_t j) {
        const int32_t last = static_cast<int32_t>(length - 1);
        const float size = static_cast<float>(length);
        // Far outside is as good as two clips outside, and fits an integer.
        x = x < -2.0f ? Lanes{} - 2.0f : x;
        x = x > size + 1 ? Lanes{} + (size + 1) : x;
        const Integers down = __builtin_convertvector(x, Integers);
        const Integers i = down + (x < __builtin_convertvector(down, Lanes));  // true is -1
        const Lanes f = x - __builtin_convertvector(i, Lanes);
        const Integers left_outside = (x < 0.0f) | (x >= size);
        const Integers right_outside = (x < -1.0f) | (x >= size - 1);
        float* shares = numbers_.data() + size_ + j;
        store<Lanes>(shares, left_outside ? Lanes{} : 1 - f);
        store<Lanes>(shares + size_, right_outside ? Lanes{} : f);
        store<Lanes>(shares + 2 * size_, left_outside ? Lanes{} : Lanes{} - size);
        store<Lanes>(shares + 3 * size_, right_outside ? Lanes{} : Lanes{} + size);
        clips(i, last, clips_.data() + j);
        clips(i + 1, last, clips_.data() + size_ + j);
    }

    SDST_INLINE static void clips(Integers i, int32_t last, int32_t* out) {
        i = i < 0 ? Integers{} : i;
        i = i > last ? Integers{} + last : i;
        std::memcpy(out, &i, sizeof(i));
    }

    int64_t size_;
    std::vector<float> numbers_;
    std::vector<int32_t> clips_;
};

// N neighbouring channels, as vectors or single floats, of one query and head.
template <class T, int N>
SDST_INLINE void gather(const SamplingShape& n, const Samples& x, int64_t first, const float* value,
                        float* out) {
    constexpr int64_t step = sizeof(T) / sizeof(float);
    T sum[N] = {};
    for (int64_t s = first; s < first + n.samples; ++s) {
        const float a = x.weight()[s] * x.left_share()[s], b = x.weight()[s] * x.right_share()[s];
        const float* left = value + x.left()[s] * n.row();
        const float* right = value + x.right()[s] * n.row();
        for (int j = 0; j < N; ++j)
            sum[j] += a * load<T>(left + j * step) + b * load<T>(right + j * step);
    }
    for (int j = 0; j < N; ++j) store<T>(out + j * step, sum[j]);
}

}  // namespace

SDST_MULTIVERSION void sample(const Samplings& x, float* out, int64_t begin, int64_t end) {
    const SamplingShape& n = x.n;
    Samples samples(n.heads * n.samples);
    out += begin * n.row();
    for (int64_t row = begin; row < end; ++row) {
        const int64_t batch = row / n.queries, first = row * n.heads * n.samples;
        const int64_t length = x.length(batch);
        if (length <= 0) {
            out = std::fill_n(out, n.row(), 0.0f);
            continue;
        }
        samples.find(samples.count, n.samples, x.references + 2 * row, x.offsets + first,
                     x.logits + first, length);
        const float* value = x.value + batch * n.length * n.row();
        for (int64_t h = 0; h < n.heads; ++h, value += n.channels) {
            const int64_t s = h * n.samples;
            int64_t c = 0;
            for (; c + 32 <= n.channels; c += 32, out += 32)
                gather<Lanes, 4>(n, samples, s, value + c, out);
            for (; c + 8 <= n.channels; c += 8, out += 8)
                gather<Lanes, 1>(n, samples, s, value + c, out);
            for (; c < n.channels; ++c, ++out) gather<float, 1>(n, samples, s, value + c, out);
        }
    }
}

namespace {

struct Gradients {
    float *value, *references, *offsets, *logits;
};

using sdst::sum;
SDST_INLINE float sum(float x) { return x; }

// N neighbouring channels of one query and head: their part of the values' gradient, and of the
// products <v_i, g> and <v_{i+1}, g> of every sample.
template <class T, int N>
SDST_INLINE void scatter(const SamplingShape& n, const Samples& x, int64_t first, const float* g,
                         const float* value, float* grad_value, float* left_products,
                         float* right_products) {
    constexpr int64_t step = sizeof(T) / sizeof(float);
    T gradient[N];
    for (int j = 0; j < N; ++j) gradient[j] = load<T>(g + j * step);
    for (int64_t s = 0; s < n.samples; ++s) {
        const int64_t t = first + s;
        const int64_t left = x.left()[t] * n.row(), right = x.right()[t] * n.row();
        const float a = x.weight()[t] * x.left_share()[t], b = x.weight()[t] * x.right_share()[t];
        T left_sum = {}, right_sum = {};
        for (int j = 0; j < N; ++j) {
            left_sum += load<T>(value + left + j * step) * gradient[j];
            right_sum += load<T>(value + right + j * step) * gradient[j];
        }
        left_products[s] += sum(left_sum);
        right_products[s] += sum(right_sum);
        // One after the other: at the ends of the video both taps may be the same row.
        for (int j = 0; j < N; ++j) add<T>(grad_value + left + j * step, a * gradient[j]);
        for (int j = 0; j < N; ++j) add<T>(grad_value + right + j * step, b * gradient[j]);
    }
}

// Gradients of one query and head; `products` holds 2 S numbers.
//
//     dv_i += A (1 - f) g    dv_{i+1} += A f g    dA = <y, g>    dp = L A <v_{i+1} - v_i, g>
//     dlogit = A (dA - sum_t A_t dA_t)    doffset = dp w / 2
//     dcenter = sum dp    dwidth = sum dp offset / 2
SDST_INLINE void backward_head(const SamplingShape& n, const Samples& x, int64_t first, float width,
                               const float* g, const float* value, const float* offsets,
                               float* grad_value, float* grad_reference, float* grad_offsets,
                               float* grad_logits, float* products) {
    float *left = products, *right = products + n.samples;
    std::fill_n(products, 2 * n.samples, 0.0f);
    int64_t c = 0;
    for (; c + 32 <= n.channels; c += 32)
        scatter<Lanes, 4>(n, x, first, g + c, value + c, grad_value + c, left, right);
    for (; c + 8 <= n.channels; c += 8)
        scatter<Lanes, 1>(n, x, first, g + c, value + c, grad_value + c, left, right);
    for (; c < n.channels; ++c)
        scatter<float, 1>(n, x, first, g + c, value + c, grad_value + c, left, right);

    const float* weights = x.weight() + first;
    float mean = 0, grad_center = 0, grad_width = 0;
    for (int64_t s = 0; s < n.samples; ++s) {
        const int64_t t = first + s;
        const float grad_weight = x.left_share()[t] * left[s] + x.right_share()[t] * right[s];
        const float grad_point =
            weights[s] * (x.left_slope()[t] * left[s] + x.right_slope()[t] * right[s]);
        mean += weights[s] * grad_weight;
        grad_center += grad_point;
        grad_width += grad_point * offsets[s] / 2;
        grad_offsets[s] = grad_point * width / 2;
        grad_logits[s] = grad_weight;
    }
    for (int64_t s = 0; s < n.samples; ++s) grad_logits[s] = weights[s] * (grad_logits[s] - mean);
    grad_reference[0] = grad_center;
    grad_reference[1] = grad_width;
}

// How the work of the backward is cut: a task is one video and some neighbouring heads of it, and
// owns its part of every gradient. No atomics, and the same bits whatever the number of threads.
struct Tasks {
    int64_t heads, per_video, count;
    bool own_rows;  // whole rows: a task clears them itself, right before it needs them

    // All heads where the batch keeps the threads busy.
    Tasks(const SamplingShape& n, int64_t threads) {
        heads = std::clamp<int64_t>(n.batch * n.heads / (4 * threads), 1, n.heads);
        per_video = (n.heads + heads - 1) / heads;
        count = n.batch * per_video;
        own_rows = heads == n.heads;
    }
};

SDST_MULTIVERSION void backward_tasks(const Samplings& x, const float* grad, const Gradients& to,
                                      const Tasks& tasks, int64_t begin, int64_t end) {
    const SamplingShape& n = x.n;
    Samples samples(tasks.heads * n.samples);
    std::vector<float> products(2 * n.samples);
    for (int64_t task = begin; task < end; ++task) {
        const int64_t batch = task / tasks.per_video, head = task % tasks.per_video * tasks.heads;
        const int64_t heads = std::min(tasks.heads, n.heads - head), length = x.length(batch);
        const int64_t first = batch * n.length * n.row() + head * n.channels;
        if (tasks.own_rows) std::fill_n(to.value + first, n.length * n.row(), 0.0f);
        for (int64_t query = batch * n.queries; query < (batch + 1) * n.queries; ++query) {
            const int64_t group = query * n.heads + head, sample = group * n.samples;
            if (length <= 0) {
                std::fill_n(to.references + 2 * group, 2 * heads, 0.0f);
                std::fill_n(to.offsets + sample, heads * n.samples, 0.0f);
                std::fill_n(to.logits + sample, heads * n.samples, 0.0f);
                continue;
            }
            const float* reference = x.references + 2 * query;
            samples.find(heads * n.samples, n.samples, reference, x.offsets + sample,
                         x.logits + sample, length);
            for (int64_t h = 0; h < heads; ++h) {
                const int64_t s = h * n.samples, c = first + h * n.channels;
                backward_head(n, samples, s, reference[1], grad + (group + h) * n.channels,
                              x.value + c, x.offsets + sample + s, to.value + c,
                              to.references + 2 * (group + h), to.offsets + sample + s,
                              to.logits + sample + s, products.data());
            }
        }
    }
}

// Tasks that make a range worth a thread of its own: about 20 microseconds of multiply-adds.
int64_t grain(int64_t channels_per_task) { return 1 + (1 << 17) / (channels_per_task + 1); }

}  // namespace
}  // namespace sdst

SDST_API void sdst_deformable_attention_forward(const float* value, const float* references,
                                                const float* offsets, const float* logits,
                                                const int64_t* lengths, float* out, int64_t batch,
                                                int64_t length, int64_t queries, int64_t heads,
                                                int64_t channels, int64_t samples,
                                                int32_t threads) {
    const sdst::Samplings x{{batch, length, queries, heads, channels, samples},
                            value,
                            references,
                            offsets,
                            logits,
                            lengths};
    sdst::parallel_for(batch * queries, sdst::grain(heads * samples * channels), threads,
                       [&](int64_t begin, int64_t end) { sdst::sample(x, out, begin, end); });
}

// grad_references [B, M, H, 2] is given for every head.
SDST_API void sdst_deformable_attention_backward(
    const float* grad, const float* value, const float* references, const float* offsets,
    const float* logits, const int64_t* lengths, float* grad_value, float* grad_references,
    float* grad_offsets, float* grad_logits, int64_t batch, int64_t length, int64_t queries,
    int64_t heads, int64_t channels, int64_t samples, int32_t threads) {
    const sdst::Samplings x{{batch, length, queries, heads, channels, samples},
                            value,
                            references,
                            offsets,
                            logits,
                            lengths};
    const sdst::Gradients to{grad_value, grad_references, grad_offsets, grad_logits};
    const sdst::Tasks tasks(x.n, std::max(threads, 1));
    if (!tasks.own_rows)
        sdst::parallel_for(
            batch * length, sdst::grain(x.n.row()), threads, [&](int64_t begin, int64_t end) {
                std::fill(grad_value + begin * x.n.row(), grad_value + end * x.n.row(), 0.0f);
            });
    const int64_t rows = 2 * queries * samples + tasks.own_rows * length;
    sdst::parallel_for(
        tasks.count, sdst::grain(rows * channels * tasks.heads), threads,
        [&](int64_t begin, int64_t end) { sdst::backward_tasks(x, grad, to, tasks, begin, end); });
}
