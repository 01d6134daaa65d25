// The end of a residual branch:
//
//     s = x + branch * factor,   out = (s - mean s) scale * weight + bias,   scale = 1 / sqrt(var s
//     + eps)
//
// of every row of F numbers. factor is 0 for dropped elements and samples and else `kept`; without
// a seed it is 1. x, branch and their gradients [B, L, F] are of fp32 or bf16, all else of fp32;
// all contiguous, but for the samples of x, which are `apart` numbers from one to the next. See
// kernels/residual_norm/reference.py.
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "hashing.h"
#include "parallel.h"
#include "tokens.h"

namespace sdst {
namespace {

constexpr float kEpsilon = 1e-5f;

struct Dropping {
    const int64_t* seed;         // null: nothing is dropped
    uint32_t elements, samples;  // thresholds of their numbers
    float kept;
};

template <class X, class B>
struct Rows {
    int64_t length, width, apart;
    Dropping dropping;
    const X* x;
    const B* branch;
    const float* weight;

    const X* start(int64_t row) const { return x + row / length * apart + row % length * width; }

    bool drops(int64_t row) const {
        if (!dropping.seed) return false;
        return numbers(Seed(*dropping.seed).exchanged(), row / length)[0] < dropping.samples;
    }
};

// Calls body(f, count) for every register of a row: `count` numbers from f on, eight but at the
// end.
template <class Body>
SDST_INLINE void each(int64_t width, const Body& body) {
    int64_t f = 0;
    for (; f + 8 <= width; f += 8) body(f, int64_t{8});
    if (f < width) body(f, width - f);
}

template <class T>
SDST_INLINE Lanes take(const T* p, int64_t count) {
    return count == 8 ? widen(p) : widen(p, count);
}

template <class T>
SDST_INLINE void put(const Lanes& x, T* p, int64_t count) {
    count == 8 ? narrow(x, p) : narrow(x, p, count);
}

// The first `count` numbers, zeros after them.
SDST_INLINE Lanes first(const Lanes& x, int64_t count) {
    const Integers place{0, 1, 2, 3, 4, 5, 6, 7};
    const Integers kept = place < static_cast<int32_t>(count);
    return count == 8 ? x : reinterpret_cast<Lanes>(reinterpret_cast<Integers>(x) & kept);
}

// Elements that are kept times what they are multiplied by, others 0, whatever they were.
SDST_INLINE Lanes drop(const Dropping& dropping, const Seed& seed, const Lanes& x, int64_t place) {
    const Words kept = reinterpret_cast<Words>(numbers(seed, place) >= dropping.elements);
    return reinterpret_cast<Lanes>(reinterpret_cast<Words>(dropping.kept * x) & kept);
}

// s of a row, with zeros up to a multiple of eight; returns its mean.
template <class X, class B>
SDST_INLINE float add_branch(const Rows<X, B>& r, int64_t row, float* s) {
    const int64_t width = r.width, at = row * width;
    const X* x = r.start(row);
    const B* branch = r.branch + at;
    const Dropping dropping = r.dropping;
    Lanes total = {};
    const auto write = [&](const Lanes& value, int64_t f) SDST_INLINED {
        store(s + f, value);
        total += value;
    };
    if (r.drops(row)) {
        each(width, [&](int64_t f, int64_t count) SDST_INLINED { write(take(x + f, count), f); });
    } else if (dropping.seed) {
        const Seed seed(*dropping.seed);
        each(width, [&](int64_t f, int64_t count) SDST_INLINED {
            write(take(x + f, count) + drop(dropping, seed, take(branch + f, count), at + f), f);
        });
    } else {
        each(width, [&](int64_t f, int64_t count)
                        SDST_INLINED { write(take(x + f, count) + take(branch + f, count), f); });
    }
    return sum(total) / static_cast<float>(width);
}

template <class X, class B>
struct Forward {
    Rows<X, B> rows;
    const float* bias;
    float *out, *mean, *scale;
};

// A task is a row.
template <class X, class B>
SDST_INLINE void run_rows(const Forward<X, B>& x, int64_t begin, int64_t end) {
    const int64_t width = x.rows.width;
    const float *weight = x.rows.weight, *bias = x.bias;
    std::vector<float> buffer(static_cast<size_t>(width + 7));
    float* s = buffer.data();
    for (int64_t row = begin; row < end; ++row) {
        const float mean = add_branch(x.rows, row, s);
        Lanes squares = {};
        each(width, [&](int64_t f, int64_t count) SDST_INLINED {
            const Lanes centred = first(load<Lanes>(s + f) - mean, count);
            squares += centred * centred;
        });
        const float scale = 1 / std::sqrt(sum(squares) / static_cast<float>(width) + kEpsilon);
        float* out = x.out + row * width;
        each(width, [&](int64_t f, int64_t count) SDST_INLINED {
            const Lanes normal = (load<Lanes>(s + f) - mean) * scale;
            put(normal * take(weight + f, count) + take(bias + f, count), out + f, count);
        });
        x.mean[row] = mean;
        x.scale[row] = scale;
    }
}

template <class X, class B>
struct Backward {
    Rows<X, B> rows;
    const float *grad, *mean, *scale;
    X* grad_x;
    B* grad_branch;
    float* partial;  // [blocks, 2, F]
    int64_t count, block;
};

// The gradients of a row's x and branch; those of weight and bias are added to.
template <class X, class B>
SDST_INLINE void differentiate(const Backward<X, B>& x, int64_t row, float* normal,
                               float* weight_sum, float* bias_sum) {
    const int64_t width = x.rows.width, at = row * width;
    const float mean = x.mean[row], scale = x.scale[row], *weight = x.rows.weight;
    const float* grad = x.grad + at;
    add_branch(x.rows, row, normal);
    Lanes level = {}, along = {};
    each(width, [&](int64_t f, int64_t count) SDST_INLINED {
        const Lanes upstream = take(grad + f, count);
        const Lanes here = first((load<Lanes>(normal + f) - mean) * scale, count);
        const Lanes weighted = upstream * take(weight + f, count);
        store(normal + f, here);
        add(weight_sum + f, upstream * here);
        add(bias_sum + f, upstream);
        level += weighted;
        along += weighted * here;
    });
    const float a = sum(level) / static_cast<float>(width);
    const float b = sum(along) / static_cast<float>(width);
    const auto out = [&](int64_t f, int64_t count) SDST_INLINED {
        const Lanes weighted = take(grad + f, count) * take(weight + f, count);
        return (weighted - a - load<Lanes>(normal + f) * b) * scale;
    };
    X* grad_x = x.grad_x + at;
    B* grad_branch = x.grad_branch + at;
    const Dropping dropping = x.rows.dropping;
    if (x.rows.drops(row)) {
        std::fill_n(grad_branch, width, B{});
        each(width,
             [&](int64_t f, int64_t count) SDST_INLINED { put(out(f, count), grad_x + f, count); });
    } else if (dropping.seed) {
        const Seed seed(*dropping.seed);
        each(width, [&](int64_t f, int64_t count) SDST_INLINED {
            const Lanes both = out(f, count);
            put(both, grad_x + f, count);
            put(drop(dropping, seed, both, at + f), grad_branch + f, count);
        });
    } else {
        each(width, [&](int64_t f, int64_t count) SDST_INLINED {
            const Lanes both = out(f, count);
            put(both, grad_x + f, count);
            put(both, grad_branch + f, count);
        });
    }
}

// A task is a block of rows.
template <class X, class B>
SDST_INLINE void run_blocks(const Backward<X, B>& x, int64_t begin, int64_t end) {
    const int64_t width = x.rows.width, padded = (width + 7) / 8 * 8;
    std::vector<float> buffer(static_cast<size_t>(3 * padded));
    float *normal = buffer.data(), *weight_sum = normal + padded, *bias_sum = weight_sum + padded;
    for (int64_t task = begin; task < end; ++task) {
        std::fill_n(weight_sum, 2 * padded, 0.0f);
        const int64_t last = std::min((task + 1) * x.block, x.count);
        for (int64_t row = task * x.block; row < last; ++row)
            differentiate(x, row, normal, weight_sum, bias_sum);
        std::copy_n(weight_sum, width, x.partial + 2 * task * width);
        std::copy_n(bias_sum, width, x.partial + (2 * task + 1) * width);
    }
}

// One function per pair of dtypes: only functions that are no templates compile once per processor.
#define SDST_RESIDUAL(X, B)                                                           \
    SDST_MULTIVERSION void run(const Forward<X, B>& x, int64_t begin, int64_t end) {  \
        run_rows(x, begin, end);                                                      \
    }                                                                                 \
    SDST_MULTIVERSION void run(const Backward<X, B>& x, int64_t begin, int64_t end) { \
        run_blocks(x, begin, end);                                                    \
    }
SDST_RESIDUAL(float, float)
SDST_RESIDUAL(float, BFloat)
SDST_RESIDUAL(BFloat, float)
SDST_RESIDUAL(BFloat, BFloat)
#undef SDST_RESIDUAL

// Calls body(X*, B*) with the dtypes of x and branch, fp32 or bf16 each.
template <class Body>
void with_types(int32_t x_type, int32_t branch_type, const Body& body) {
    constexpr auto bf16 = static_cast<int32_t>(Type::bf16);
    const auto with_branch = [&](auto* x) {
        if (branch_type == bf16)
            body(x, static_cast<BFloat*>(nullptr));
        else
            body(x, static_cast<float*>(nullptr));
    };
    if (x_type == bf16)
        with_branch(static_cast<BFloat*>(nullptr));
    else
        with_branch(static_cast<float*>(nullptr));
}

}  // namespace
}  // namespace sdst

// `elements` and `samples` are the rates of dropping in 2^-32.
SDST_API void sdst_residual_norm_forward(const void* x, const void* branch, const float* weight,
                                         const float* bias, const int64_t* seed, float* out,
                                         float* mean, float* scale, int64_t batch, int64_t apart,
                                         int64_t length, int64_t width, int64_t elements,
                                         int64_t samples, float kept, int32_t x_type,
                                         int32_t branch_type, int32_t threads) {
    const sdst::Dropping dropping{seed, static_cast<uint32_t>(elements),
                                  static_cast<uint32_t>(samples), kept};
    sdst::with_types(x_type, branch_type, [&](auto* x_kind, auto* branch_kind) {
        using X = std::remove_pointer_t<decltype(x_kind)>;
        using B = std::remove_pointer_t<decltype(branch_kind)>;
        const sdst::Rows<X, B> rows{
            length, width, apart, dropping, static_cast<const X*>(x), static_cast<const B*>(branch),
            weight};
        const sdst::Forward<X, B> pass{rows, bias, out, mean, scale};
        constexpr int64_t grain = 32;  // rows worth a thread of their own
        sdst::parallel_for(batch * length, grain, threads,
                           [&](int64_t begin, int64_t end) { sdst::run(pass, begin, end); });
    });
}

// grad_affine [2, F] are the gradients of weight and bias.
SDST_API void sdst_residual_norm_backward(const float* grad, const void* x, const void* branch,
                                          const float* weight, const float* mean,
                                          const float* scale, const int64_t* seed, void* grad_x,
                                          void* grad_branch, float* partial, float* grad_affine,
                                          int64_t batch, int64_t apart, int64_t length,
                                          int64_t width, int64_t block, int64_t elements,
                                          int64_t samples, float kept, int32_t x_type,
                                          int32_t branch_type, int32_t threads) {
    const sdst::Dropping dropping{seed, static_cast<uint32_t>(elements),
                                  static_cast<uint32_t>(samples), kept};
    const int64_t count = batch * length, blocks = (count + block - 1) / block;
    sdst::with_types(x_type, branch_type, [&](auto* x_kind, auto* branch_kind) {
        using X = std::remove_pointer_t<decltype(x_kind)>;
        using B = std::remove_pointer_t<decltype(branch_kind)>;
        const sdst::Rows<X, B> rows{
            length, width, apart, dropping, static_cast<const X*>(x), static_cast<const B*>(branch),
            weight};
        const sdst::Backward<X, B> pass{
            rows,    grad,  mean, scale, static_cast<X*>(grad_x), static_cast<B*>(grad_branch),
            partial, count, block};
        sdst::parallel_for(blocks, 1, threads,
                           [&](int64_t begin, int64_t end) { sdst::run(pass, begin, end); });
    });
    std::fill_n(grad_affine, 2 * width, 0.0f);
    for (int64_t i = 0; i < blocks; ++i)
        for (int64_t f = 0; f < 2 * width; ++f) grad_affine[f] += partial[i * 2 * width + f];
}
