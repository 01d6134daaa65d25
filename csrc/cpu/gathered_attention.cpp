// Attention of query rows over tokens picked by index out of the frozen store's temporal pyramid:
//
//     a_r = softmax_j(scale <q_r, x_j> + bias_j),   out_r = sum_j a_rj x_j
//
// and its gradients. A task is a block of one sample's rows. It passes over the kept tokens twice,
// for the products with the rows and, once the softmax is known, for the sums. Both are matrix
// products over tiles of some tokens and channels, which are gathered in fp32 into the L1 cache;
// the gathered copy [k, W] never exists.
//
// tokens [B, L, P, D], each sample's contiguous and `apart` numbers behind the one before it.
// query [H, B, M, W], as absorbing a projection leaves it, W a multiple of 8 that holds the D
// channels and zeros; a sample has R = H M rows. indices, bias, valid [B, k]. All contiguous. What
// is not valid is not read and takes no part.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <type_traits>

#include "parallel.h"
#include "pyramid.h"

namespace sdst {
namespace {

constexpr int64_t kBlock = 96;      // rows of a task
constexpr int64_t kTile = 16;       // tokens of a tile: two registers of products for each row
constexpr int64_t kChannels = 256;  // of a tile
constexpr int kRows = 4;            // rows whose sums are in registers

struct Attention {
    Pyramid pyramid;
    const float* query;
    const int64_t* indices;
    const float* bias;
    const bool* valid;
    int64_t batch, queries, heads, width, kept;  // B, M, H, W, k
    float scale;
    float* workspace;  // [B, blocks, slice()]

    int64_t rows() const { return heads * queries; }
    int64_t blocks() const { return (rows() + kBlock - 1) / kBlock; }
    // k in whole tiles: the columns of a matrix of products.
    int64_t columns() const { return (kept + kTile - 1) / kTile * kTile; }
    // Two tiles, the biases, where the columns come from, and the products of two kinds of rows.
    int64_t slice() const { return 2 * kTile * kChannels + (2 + 2 * kBlock) * columns(); }
};

// A task's rows, its part of the workspace, and the tokens that take part: a column for each.
struct Block {
    int64_t sample, rows, columns;
    int64_t place[kBlock];  // of every row, in [H, B, M, W]
    float *tile, *transposed, *bias, *products, *slopes;
    int32_t* position;  // j of every column
};

// Lists the valid ones of the kept tokens; the last tile is filled up with columns of weight 0.
Block begin(const Attention& a, int64_t task) {
    Block b;
    b.sample = task / a.blocks();
    const int64_t start = task % a.blocks() * kBlock;
    b.rows = std::min(kBlock, a.rows() - start);
    for (int64_t r = 0; r < b.rows; ++r) {
        const int64_t head = (start + r) / a.queries, query = (start + r) % a.queries;
        b.place[r] = ((head * a.batch + b.sample) * a.queries + query) * a.width;
    }
    b.tile = a.workspace + task * a.slice();
    b.transposed = b.tile + kTile * kChannels;
    b.bias = b.transposed + kTile * kChannels;
    b.position = reinterpret_cast<int32_t*>(b.bias + a.columns());
    b.products = b.bias + 2 * a.columns();
    b.slopes = b.products + kBlock * a.columns();
    b.columns = 0;
    for (int64_t j = 0; j < a.kept; ++j) {
        if (!a.valid[b.sample * a.kept + j]) continue;
        b.bias[b.columns] = a.bias[b.sample * a.kept + j];
        b.position[b.columns++] = static_cast<int32_t>(j);
    }
    for (; b.columns % kTile; ++b.columns) {
        b.bias[b.columns] = -INFINITY;
        b.position[b.columns] = -1;
    }
    return b;
}

// Channels [channel, channel + count) of the tokens of columns [column, column + kTile), row by
// row.
SDST_INLINE void gather(const Attention& a, const Block& b, int64_t column, int64_t channel,
                        int64_t count) {
    std::fill_n(b.tile, kTile * kChannels, 0.0f);
    const int64_t stored = std::min(count, a.pyramid.width - channel);
    for (int64_t t = 0; t < kTile && b.position[column + t] >= 0; ++t) {
        const int64_t j = b.sample * a.kept + b.position[column + t];
        add_entry(a.pyramid, b.sample, a.indices[j], 1, channel, stored, b.tile + t * kChannels);
    }
}

// Calls body(column, channel, count) for every tile after gathering it.
template <class Body>
SDST_INLINE void for_tiles(const Attention& a, const Block& b, const Body& body) {
    for (int64_t channel = 0; channel < a.width; channel += kChannels)
        for (int64_t column = 0; column < b.columns; column += kTile) {
            const int64_t count = std::min(kChannels, a.width - channel);
            gather(a, b, column, channel, count);
            body(column, channel, count);
        }
}

// Calls body(r, how many) over all rows: kRows at a time as far as they go, then one by one.
template <class Body>
SDST_INLINE void for_rows(int64_t count, const Body& body) {
    int64_t r = 0;
    for (; r + kRows <= count; r += kRows) body(r, std::integral_constant<int, kRows>());
    for (; r < count; ++r) body(r, std::integral_constant<int, 1>());
}

// out[r] += <rows[r], token t> over `count` channels, for N rows and a tile's tokens.
template <int N>
SDST_INLINE void multiply(const float* rows, const int64_t* place, const float* transposed,
                          int64_t count, float* out, int64_t columns) {
    const float* row[N];
    Lanes sums[N][2];
    for (int r = 0; r < N; ++r) {
        row[r] = rows + place[r];
        sums[r][0] = load<Lanes>(out + r * columns);
        sums[r][1] = load<Lanes>(out + r * columns + 8);
    }
    for (int64_t d = 0; d < count; ++d) {
        const Lanes left = load<Lanes>(transposed + d * kTile);
        const Lanes right = load<Lanes>(transposed + d * kTile + 8);
        for (int r = 0; r < N; ++r) {
            sums[r][0] += row[r][d] * left;
            sums[r][1] += row[r][d] * right;
        }
    }
    for (int r = 0; r < N; ++r) {
        store<Lanes>(out + r * columns, sums[r][0]);
        store<Lanes>(out + r * columns + 8, sums[r][1]);
    }
}

// out [rows, columns] = <row r, x_j>, for one kind of rows, or for two with one gathering.
SDST_INLINE void multiply_tokens(const Attention& a, const Block& b, const float* rows, float* out,
                                 const float* more_rows, float* more_out) {
    const int64_t columns = a.columns();
    std::fill_n(out, b.rows * columns, 0.0f);
    if (more_rows) std::fill_n(more_out, b.rows * columns, 0.0f);
    for_tiles(a, b, [&](int64_t column, int64_t channel, int64_t count) SDST_INLINED {
        for (int64_t d = 0; d < count; d += 8)
            for (int64_t t = 0; t < kTile; t += 8)
                transpose(b.tile + t * kChannels + d, kChannels, b.transposed + d * kTile + t,
                          kTile);
        for_rows(b.rows, [&](int64_t r, auto n) SDST_INLINED {
            const int64_t* place = b.place + r;
            const int64_t target = r * columns + column;
            multiply<n>(rows + channel, place, b.transposed, count, out + target, columns);
            if (more_rows)
                multiply<n>(more_rows + channel, place, b.transposed, count, more_out + target,
                            columns);
        });
    });
}

// rows[r] += sum_t weights[r][t] x_t, for N rows on C neighbouring registers of channels.
template <int N, int C>
SDST_INLINE void mix(const float* weights, int64_t columns, const float* tile, float* rows,
                     const int64_t* place) {
    Lanes sums[N][C];
    for (int r = 0; r < N; ++r)
        for (int c = 0; c < C; ++c) sums[r][c] = load<Lanes>(rows + place[r] + 8 * c);
    for (int64_t t = 0; t < kTile; ++t)
        for (int c = 0; c < C; ++c) {
            const Lanes values = load<Lanes>(tile + t * kChannels + 8 * c);
            for (int r = 0; r < N; ++r) sums[r][c] += weights[r * columns + t] * values;
        }
    for (int r = 0; r < N; ++r)
        for (int c = 0; c < C; ++c) store<Lanes>(rows + place[r] + 8 * c, sums[r][c]);
}

// out[r] = sum_j weights[r][j] x_j, weights [rows, columns].
SDST_INLINE void sum_tokens(const Attention& a, const Block& b, const float* weights, float* out) {
    const int64_t columns = a.columns();
    for (int64_t r = 0; r < b.rows; ++r) std::fill_n(out + b.place[r], a.width, 0.0f);
    for_tiles(a, b, [&](int64_t column, int64_t channel, int64_t count) SDST_INLINED {
        for_rows(b.rows, [&](int64_t r, auto n) SDST_INLINED {
            const int64_t* place = b.place + r;
            const float* factors = weights + r * columns + column;
            float* rows = out + channel;
            int64_t d = 0;
            for (; d + 16 <= count; d += 16)
                mix<n, 2>(factors, columns, b.tile + d, rows + d, place);
            for (; d < count; d += 8) mix<n, 1>(factors, columns, b.tile + d, rows + d, place);
        });
    });
}

// x to softmax(scale x + bias), in place.
SDST_INLINE void softmax(float* x, const float* bias, float scale, int64_t columns) {
    Lanes highest = Lanes{} - FLT_MAX;
    for (int64_t j = 0; j < columns; j += 8) {
        const Lanes logits = scale * load<Lanes>(x + j) + load<Lanes>(bias + j);
        store<Lanes>(x + j, logits);
        highest = logits > highest ? logits : highest;
    }
    const float top = max(highest);
    Lanes total = {};
    for (int64_t j = 0; j < columns; j += 8) {
        const Lanes weights = exponential(load<Lanes>(x + j) - top);
        store<Lanes>(x + j, weights);
        total += weights;
    }
    const float share = 1 / sum(total);
    for (int64_t j = 0; j < columns; j += 8) store<Lanes>(x + j, share * load<Lanes>(x + j));
}

struct Forward {
    Attention a;
    float* out;  // [H, B, M, W]
};

SDST_MULTIVERSION void run(const Forward& f, int64_t from, int64_t to) {
    const Attention& a = f.a;
    for (int64_t task = from; task < to; ++task) {
        const Block b = begin(a, task);
        multiply_tokens(a, b, a.query, b.products, nullptr, nullptr);
        for (int64_t r = 0; r < b.rows; ++r)
            softmax(b.products + r * a.columns(), b.bias, a.scale, b.columns);
        sum_tokens(a, b, b.products, f.out);
    }
}

struct Backward {
    Attention a;
    const float* grad;  // [H, B, M, W]
    float* grad_query;  // [H, B, M, W]
    float* grad_bias;   // [B, blocks, k]
};

// With s_j = <g, x_j> and a row's softmax a_j:
//
//     dlogit_j = a_j (s_j - sum_i a_i s_i),   dq = scale sum_j dlogit_j x_j,   dbias = sum_r dlogit
SDST_MULTIVERSION void run(const Backward& f, int64_t from, int64_t to) {
    const Attention& a = f.a;
    for (int64_t task = from; task < to; ++task) {
        const Block b = begin(a, task);
        multiply_tokens(a, b, a.query, b.products, f.grad, b.slopes);
        // The biases are read for the last time: their place takes the sum of the slopes.
        for (int64_t r = 0; r < b.rows; ++r)
            softmax(b.products + r * a.columns(), b.bias, a.scale, b.columns);
        std::fill_n(b.bias, b.columns, 0.0f);
        for (int64_t r = 0; r < b.rows; ++r) {
            float *weights = b.products + r * a.columns(), *slopes = b.slopes + r * a.columns();
            Lanes mean = {};
            for (int64_t j = 0; j < b.columns; j += 8)
                mean += load<Lanes>(weights + j) * load<Lanes>(slopes + j);
            const float along = sum(mean);
            for (int64_t j = 0; j < b.columns; j += 8) {
                const Lanes slope = load<Lanes>(weights + j) * (load<Lanes>(slopes + j) - along);
                add<Lanes>(b.bias + j, slope);
                store<Lanes>(slopes + j, a.scale * slope);
            }
        }
        float* grad_bias = f.grad_bias + task * a.kept;
        std::fill_n(grad_bias, a.kept, 0.0f);
        for (int64_t j = 0; j < b.columns && b.position[j] >= 0; ++j)
            grad_bias[b.position[j]] = b.bias[j];
        sum_tokens(a, b, b.slopes, f.grad_query);
    }
}

template <class Pass>
void run_all(const Pass& pass, int32_t threads) {
    parallel_for(pass.a.batch * pass.a.blocks(), 1, threads,
                 [&](int64_t from, int64_t to) { run(pass, from, to); });
}

}  // namespace
}  // namespace sdst

SDST_API void sdst_gathered_attention_forward(
    const float* query, const void* tokens, const float* scales, const int64_t* indices,
    const float* bias, const bool* valid, const int64_t* lengths, const int64_t* strides,
    float* out, float* workspace, int64_t batch, int64_t apart, int64_t length, int64_t per_clip,
    int64_t width, int64_t levels, int64_t queries, int64_t heads, int64_t padded, int64_t kept,
    float scale, int32_t type, int32_t threads) {
    const sdst::Pyramid pyramid{static_cast<sdst::Type>(type),
                                tokens,
                                apart,
                                scales,
                                lengths,
                                strides,
                                levels,
                                length,
                                per_clip,
                                width};
    const sdst::Attention attention{pyramid, query, indices, bias, valid, batch,
                                    queries, heads, padded,  kept, scale, workspace};
    sdst::run_all(sdst::Forward{attention, out}, threads);
}

SDST_API void sdst_gathered_attention_backward(
    const float* grad, const float* query, const void* tokens, const float* scales,
    const int64_t* indices, const float* bias, const bool* valid, const int64_t* lengths,
    const int64_t* strides, float* grad_query, float* grad_bias, float* workspace, int64_t batch,
    int64_t apart, int64_t length, int64_t per_clip, int64_t width, int64_t levels, int64_t queries,
    int64_t heads, int64_t padded, int64_t kept, float scale, int32_t type, int32_t threads) {
    const sdst::Pyramid pyramid{static_cast<sdst::Type>(type),
                                tokens,
                                apart,
                                scales,
                                lengths,
                                strides,
                                levels,
                                length,
                                per_clip,
                                width};
    const sdst::Attention attention{pyramid, query, indices, bias, valid, batch,
                                    queries, heads, padded,  kept, scale, workspace};
    sdst::run_all(sdst::Backward{attention, grad, grad_query, grad_bias}, threads);
}
