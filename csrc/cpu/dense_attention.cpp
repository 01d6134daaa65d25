// Attention of the rows of q to those of k and v, and its gradients:
//
//     p_ij = softmax_j(scale <q_i, k_j>),   out_i = sum_j p_ij v_j
//
// q [B, M, H, C], k and v [B, L, H, C], fp32 with rows of C contiguous numbers; out and gradients
// contiguous. Only the first query_lengths[b] queries and key_lengths[b] keys of a video are read
// (all where null); the others' outputs and gradients are 0, as is the output without any key.
//
// The keys and values of a video and head are copied into contiguous memory, the keys transposed,
// and the queries pass by them in blocks whose logits stay in the caches. The logits of a whole
// video never exist.
#include <cfloat>
#include <vector>

#include "attention.h"
#include "parallel.h"
#include "sdst.h"

namespace sdst {
namespace {

constexpr int64_t kBlock = 24;  // queries whose logits are in the caches

// out[rows, width] = factor * from[rows, channels], with zeros behind.
SDST_INLINE void copy(const Matrix& from, int64_t rows, int64_t channels, int64_t width,
                      float factor, float* out) {
    for (int64_t r = 0; r < rows; ++r, out += width) {
        const float* row = from.data + r * from.row;
        int64_t c = 0;
        for (; c + 8 <= channels; c += 8) store<Lanes>(out + c, factor * load<Lanes>(row + c));
        for (; c < channels; ++c) out[c] = factor * row[c];
        for (; c < width; ++c) out[c] = 0;
    }
}

// out[channels, columns] = from[rows, channels] transposed, with zeros behind.
SDST_INLINE void copy_transposed(const Matrix& from, int64_t rows, int64_t channels,
                                 int64_t columns, float* out) {
    int64_t r = 0;
    for (; r + 8 <= rows; r += 8) {
        const float* row = from.data + r * from.row;
        int64_t c = 0;
        for (; c + 8 <= channels; c += 8)
            transpose(row + c, from.row, out + c * columns + r, columns);
        for (; c < channels; ++c)
            for (int64_t i = 0; i < 8; ++i) out[c * columns + r + i] = row[i * from.row + c];
    }
    for (int64_t c = 0; c < channels; ++c)
        for (int64_t i = r; i < columns; ++i)
            out[c * columns + i] = i < rows ? from.data[i * from.row + c] : 0;
}

// Logits [columns], of which `keys` count, become e^(logit - largest); returns their sum.
SDST_INLINE float exponentiate(float* logits, int64_t keys, int64_t columns) {
    std::fill(logits + keys, logits + columns, -FLT_MAX);
    Lanes most = load<Lanes>(logits);
    for (int64_t j = 8; j < columns; j += 8) {
        const Lanes x = load<Lanes>(logits + j);
        most = x > most ? x : most;
    }
    const float largest = max(most);
    Lanes total = {};
    for (int64_t j = 0; j < columns; j += 8) {
        const Lanes x = exponential(load<Lanes>(logits + j) - largest);
        store<Lanes>(logits + j, x);
        total += x;
    }
    return sum(total);
}

}  // namespace

SDST_MULTIVERSION void attend(const Attention& a, float* out, int64_t begin, int64_t end) {
    const int64_t width = a.width(), most_columns = a.columns();
    const int64_t rows = Attention::kTask, blocks = a.blocks();
    std::vector<float> memory((a.channels + kBlock) * most_columns + (a.keys + 2 * kBlock) * width);
    float *keys = memory.data(), *values = keys + a.channels * most_columns;
    float *query = values + a.keys * width, *sums = query + kBlock * width;
    float* logits = sums + kBlock * width;
    for (int64_t task = begin; task < end; ++task) {
        const int64_t h = task / blocks % a.heads, b = task / blocks / a.heads;
        const int64_t first = task % blocks * rows, last = std::min(first + rows, a.queries);
        const int64_t count = a.valid_keys(b), columns = whole_panels(count);
        const int64_t valid = count > 0 ? std::clamp(a.valid_queries(b), first, last) : first;
        if (valid > first) {
            copy_transposed(a.k.of(b, h), count, a.channels, columns, keys);
            copy(a.v.of(b, h), count, a.channels, width, 1, values);
        }
        const Matrix q = a.q.of(b, h);
        float* to = out + (b * a.queries + first) * a.out_row + h * a.channels;
        for (int64_t i = first; i < valid; i += kBlock) {
            const int64_t block = std::min(kBlock, valid - i);
            copy({q.data + i * q.row, q.row}, block, a.channels, width, a.scale, query);
            multiply({query, width}, keys, columns, block, a.channels, columns, logits, columns);
            float total[kBlock];
            for (int64_t r = 0; r < block; ++r)
                total[r] = exponentiate(logits + r * columns, count, columns);
            multiply({logits, columns}, values, width, block, count, width, sums, width);
            for (int64_t r = 0; r < block; ++r, to += a.out_row)
                copy({sums + r * width, width}, 1, a.channels, a.channels, 1 / total[r], to);
        }
        for (int64_t i = valid; i < last; ++i, to += a.out_row) std::fill_n(to, a.channels, 0.0f);
    }
}

namespace {

struct Gradients {
    float *q, *k, *v;
};

// With g the gradient of out, and s the logits:
//
//     dv_j = sum_i p_ij g_i    dp_ij = <g_i, v_j>    ds_ij = p_ij (dp_ij - sum_t p_it dp_it)
//     dq_i = scale sum_j ds_ij k_j    dk_j = scale sum_i ds_ij q_i
//
// A task is a video and head and owns its part of every gradient.
SDST_MULTIVERSION void backward_tasks(const Attention& a, const Heads& grad, const Gradients& to,
                                      int64_t begin, int64_t end) {
    const int64_t width = a.width(), most_columns = a.columns(), step = a.heads * a.channels;
    std::vector<float> memory((2 * a.channels + 2 * kBlock) * most_columns +
                              (a.keys + 2 * most_columns + 3 * kBlock) * width);
    float* keys_transposed = memory.data();
    float* values_transposed = keys_transposed + a.channels * most_columns;
    float* weights = values_transposed + a.channels * most_columns;
    float *slopes = weights + kBlock * most_columns, *keys = slopes + kBlock * most_columns;
    float *grad_keys = keys + a.keys * width, *grad_values = grad_keys + most_columns * width;
    float *query = grad_values + most_columns * width, *upstream = query + kBlock * width;
    float* grad_query = upstream + kBlock * width;
    for (int64_t task = begin; task < end; ++task) {
        const int64_t h = task % a.heads, b = task / a.heads;
        const int64_t count = a.valid_keys(b), columns = whole_panels(count);
        const int64_t valid = count > 0 ? a.valid_queries(b) : 0;
        copy_transposed(a.k.of(b, h), count, a.channels, columns, keys_transposed);
        copy_transposed(a.v.of(b, h), count, a.channels, columns, values_transposed);
        copy(a.k.of(b, h), count, a.channels, width, a.scale, keys);
        std::fill_n(grad_keys, 2 * most_columns * width, 0.0f);
        const Matrix q = a.q.of(b, h), g = grad.of(b, h);
        float* to_query = to.q + (b * a.queries * a.heads + h) * a.channels;
        for (int64_t i = 0; i < valid; i += kBlock) {
            const int64_t block = std::min(kBlock, valid - i);
            copy({q.data + i * q.row, q.row}, block, a.channels, width, a.scale, query);
            copy({g.data + i * g.row, g.row}, block, a.channels, width, 1, upstream);
            multiply({query, width}, keys_transposed, columns, block, a.channels, columns, weights,
                     columns);
            multiply({upstream, width}, values_transposed, columns, block, a.channels, columns,
                     slopes, columns);
            for (int64_t r = 0; r < block; ++r) {
                float *p = weights + r * columns, *slope = slopes + r * columns;
                const float share = 1 / exponentiate(p, count, columns);
                Lanes mean = {};
                for (int64_t j = 0; j < columns; j += 8) {
                    const Lanes x = load<Lanes>(p + j) * share;
                    store<Lanes>(p + j, x);
                    mean += x * load<Lanes>(slope + j);
                }
                const float subtracted = sum(mean);
                for (int64_t j = 0; j < columns; j += 8)
                    store<Lanes>(slope + j,
                                 load<Lanes>(p + j) * (load<Lanes>(slope + j) - subtracted));
            }
            multiply({slopes, columns}, keys, width, block, count, width, grad_query, width);
            multiply({weights, 1, columns}, upstream, width, count, block, width, grad_values,
                     width, true);
            multiply({slopes, 1, columns}, query, width, count, block, width, grad_keys, width,
                     true);
            for (int64_t r = 0; r < block; ++r, to_query += step)
                std::copy_n(grad_query + r * width, a.channels, to_query);
        }
        for (int64_t i = valid; i < a.queries; ++i, to_query += step)
            std::fill_n(to_query, a.channels, 0.0f);
        const int64_t first = (b * a.keys * a.heads + h) * a.channels;
        for (int64_t j = 0; j < a.keys; ++j) {
            float *to_key = to.k + first + j * step, *to_value = to.v + first + j * step;
            if (j < count) {
                std::copy_n(grad_keys + j * width, a.channels, to_key);
                std::copy_n(grad_values + j * width, a.channels, to_value);
            } else {
                std::fill_n(to_key, a.channels, 0.0f);
                std::fill_n(to_value, a.channels, 0.0f);
            }
        }
    }
}

// Tasks that make a range worth a thread of its own: about 20 microseconds of multiply-adds.
int64_t grain(int64_t multiplications) { return 1 + (1 << 20) / (multiplications + 1); }

}  // namespace
}  // namespace sdst

// Every pointer of q, k and v is followed by the numbers from one video, row and head to the next.
SDST_API void sdst_dense_attention_forward(
    const float* q, int64_t q_video, int64_t q_row, int64_t q_head, const float* k, int64_t k_video,
    int64_t k_row, int64_t k_head, const float* v, int64_t v_video, int64_t v_row, int64_t v_head,
    const int64_t* query_lengths, const int64_t* key_lengths, float* out, int64_t batch,
    int64_t heads, int64_t queries, int64_t keys, int64_t channels, float scale, int32_t threads) {
    const sdst::Attention a{batch,
                            heads,
                            queries,
                            keys,
                            channels,
                            {q, q_video, q_row, q_head},
                            {k, k_video, k_row, k_head},
                            {v, v_video, v_row, v_head},
                            query_lengths,
                            key_lengths,
                            scale,
                            heads * channels};
    const int64_t rows = std::min(sdst::Attention::kTask, queries);
    sdst::parallel_for(a.tasks(), sdst::grain(2 * rows * keys * channels), threads,
                       [&](int64_t begin, int64_t end) { sdst::attend(a, out, begin, end); });
}

SDST_API void sdst_dense_attention_backward(
    const float* grad, int64_t grad_video, int64_t grad_row, int64_t grad_head, const float* q,
    int64_t q_video, int64_t q_row, int64_t q_head, const float* k, int64_t k_video, int64_t k_row,
    int64_t k_head, const float* v, int64_t v_video, int64_t v_row, int64_t v_head,
    const int64_t* query_lengths, const int64_t* key_lengths, float* grad_q, float* grad_k,
    float* grad_v, int64_t batch, int64_t heads, int64_t queries, int64_t keys, int64_t channels,
    float scale, int32_t threads) {
    const sdst::Attention a{batch,
                            heads,
                            queries,
                            keys,
                            channels,
                            {q, q_video, q_row, q_head},
                            {k, k_video, k_row, k_head},
                            {v, v_video, v_row, v_head},
                            query_lengths,
                            key_lengths,
                            scale,
                            heads * channels};
    const sdst::Heads upstream{grad, grad_video, grad_row, grad_head};
    sdst::parallel_for(batch * heads, sdst::grain(5 * queries * keys * channels), threads,
                       [&](int64_t begin, int64_t end) {
                           sdst::backward_tasks(a, upstream, {grad_q, grad_k, grad_v}, begin, end);
                       });
}
