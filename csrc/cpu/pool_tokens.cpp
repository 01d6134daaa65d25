// Attention pooling of every clip over its best tokens under a sentence:
//
//     s_p = <x_p, u>,   w = softmax of s over the `kept` largest (equal ones included)
//     out = sum_p w_p x_p
//
// tokens [B, L, P, D] fp32, fp16, bf16, or int8 with scales [B, L, P]; u [B, D], out [B, L, D]
// fp32; all contiguous, but for the samples' tokens, which are `apart` numbers from one to the
// next. lengths [B] or null are the valid L; padding is not read and gives 0.
#include <algorithm>
#include <cmath>
#include <functional>
#include <type_traits>

#include "parallel.h"
#include "tokens.h"

namespace sdst {
namespace {

struct Shape {
    int64_t batch, length, per_clip, width, kept;
};

// Scores of a clip's tokens to weights, in place; whether a weight of 0 leaves its token out: it
// does not where a score is infinite, as 0 times what made it so is NaN. `order` is workspace for P
// floats.
SDST_INLINE bool to_weights(const Shape& n, float* scores, float* order) {
    float nothing = 0;  // NaN where a score is not finite
    for (int64_t p = 0; p < n.per_clip; ++p) nothing += 0 * scores[p];
    const bool finite = nothing == 0;
    // An order with NaN in it is none, and looking for a place in it may run out of the array.
    if (!finite && std::any_of(scores, scores + n.per_clip, [](float x) { return x != x; })) {
        std::fill_n(scores, n.per_clip, NAN);
        return false;
    }
    std::copy_n(scores, n.per_clip, order);
    std::nth_element(order, order + (n.kept - 1), order + n.per_clip, std::greater<float>());
    const float threshold = order[n.kept - 1];
    const float highest = *std::max_element(order, order + n.kept);
    float total = 0;
    for (int64_t p = 0; p < n.per_clip; ++p) {
        scores[p] = scores[p] < threshold ? 0 : std::exp(scores[p] - highest);
        total += scores[p];
    }
    for (int64_t p = 0; p < n.per_clip; ++p) scores[p] /= total;
    return finite;
}

template <class T>
struct Inputs {
    Shape n;
    const T* tokens;
    int64_t apart;
    const float *scales, *u;
    const int64_t* lengths;

    // The tokens of clip `row` of [B, L].
    const T* clip(int64_t row) const {
        return tokens + row / n.length * apart + row % n.length * n.per_clip * n.width;
    }

    // What token p of clip `row` of [B, L] is multiplied by.
    float scale(int64_t row, int64_t p) const { return scales ? scales[row * n.per_clip + p] : 1; }
};

template <class T>
struct Forward : Inputs<T> {
    float *out, *workspace;  // workspace [B, L, 2, P]
};

// A task is a clip, so that one long video occupies all threads.
template <class T>
SDST_INLINE void forward(const Forward<T>& x, int64_t begin, int64_t end) {
    const Shape& n = x.n;
    for (int64_t row = begin; row < end; ++row) {
        const int64_t batch = row / n.length;
        const T* tokens = x.clip(row);
        float* out = x.out + row * n.width;
        std::fill_n(out, n.width, 0.0f);
        if (x.lengths && row % n.length >= x.lengths[batch]) continue;
        float* scores = x.workspace + row * 2 * n.per_clip;
        for (int64_t p = 0; p < n.per_clip; ++p)
            scores[p] = x.scale(row, p) * dot(tokens + p * n.width, x.u + batch * n.width, n.width);
        const bool finite = to_weights(n, scores, scores + n.per_clip);
        for (int64_t p = 0; p < n.per_clip; ++p)
            if (scores[p] != 0 || !finite)
                accumulate(x.scale(row, p) * scores[p], tokens + p * n.width, out, n.width);
    }
}

template <class T>
struct Backward : Inputs<T> {
    const float* grad;
    float *grad_u, *workspace;  // workspace [B, 3, P]
};

// A task is a sample and owns its gradient. Weights are computed again rather than kept.
//
//     t_p = <x_p, g>,   ds_p = w_p (t_p - sum_q w_q t_q),   du = sum_p ds_p x_p
template <class T>
SDST_INLINE void backward(const Backward<T>& x, int64_t begin, int64_t end) {
    const Shape& n = x.n;
    for (int64_t batch = begin; batch < end; ++batch) {
        const float* u = x.u + batch * n.width;
        float* grad_u = x.grad_u + batch * n.width;
        float* weights = x.workspace + batch * 3 * n.per_clip;
        float* along = weights + 2 * n.per_clip;
        const int64_t length = std::min(x.lengths ? x.lengths[batch] : n.length, n.length);
        std::fill_n(grad_u, n.width, 0.0f);
        for (int64_t clip = 0; clip < length; ++clip) {
            const int64_t row = batch * n.length + clip;
            const T* tokens = x.clip(row);
            for (int64_t p = 0; p < n.per_clip; ++p) {
                const float scale = x.scale(row, p);
                weights[p] = scale * dot(tokens + p * n.width, u, n.width);
                along[p] = scale * dot(tokens + p * n.width, x.grad + row * n.width, n.width);
            }
            const bool finite = to_weights(n, weights, weights + n.per_clip);
            float mean = 0;
            for (int64_t p = 0; p < n.per_clip; ++p) mean += weights[p] * along[p];
            for (int64_t p = 0; p < n.per_clip; ++p)
                if (weights[p] != 0 || !finite)
                    accumulate(x.scale(row, p) * weights[p] * (along[p] - mean),
                               tokens + p * n.width, grad_u, n.width);
        }
    }
}

// One function per dtype: only functions that are no templates compile once per processor.
#define SDST_POOLING(T)                                                            \
    SDST_MULTIVERSION void run(const Forward<T>& x, int64_t begin, int64_t end) {  \
        forward(x, begin, end);                                                    \
    }                                                                              \
    SDST_MULTIVERSION void run(const Backward<T>& x, int64_t begin, int64_t end) { \
        backward(x, begin, end);                                                   \
    }
SDST_POOLING(float)
SDST_POOLING(Half)
SDST_POOLING(BFloat)
SDST_POOLING(int8_t)
#undef SDST_POOLING

template <class Pass>
void run_all(const Pass& pass, int64_t tasks, int32_t threads) {
    parallel_for(tasks, 1, threads, [&](int64_t begin, int64_t end) { run(pass, begin, end); });
}

}  // namespace
}  // namespace sdst

SDST_API void sdst_pool_tokens_forward(const void* tokens, const float* scales, const float* u,
                                       const int64_t* lengths, float* out, float* workspace,
                                       int64_t batch, int64_t apart, int64_t length,
                                       int64_t per_clip, int64_t width, int64_t kept, int32_t type,
                                       int32_t threads) {
    const sdst::Shape n{batch, length, per_clip, width, kept};
    sdst::with_type(static_cast<sdst::Type>(type), tokens, [&](const auto* x) {
        using T = std::remove_cv_t<std::remove_pointer_t<decltype(x)>>;
        sdst::run_all(sdst::Forward<T>{{n, x, apart, scales, u, lengths}, out, workspace},
                      batch * length, threads);
    });
}

SDST_API void sdst_pool_tokens_backward(const float* grad, const void* tokens, const float* scales,
                                        const float* u, const int64_t* lengths, float* grad_u,
                                        float* workspace, int64_t batch, int64_t apart,
                                        int64_t length, int64_t per_clip, int64_t width,
                                        int64_t kept, int32_t type, int32_t threads) {
    const sdst::Shape n{batch, length, per_clip, width, kept};
    sdst::with_type(static_cast<sdst::Type>(type), tokens, [&](const auto* x) {
        using T = std::remove_cv_t<std::remove_pointer_t<decltype(x)>>;
        sdst::run_all(sdst::Backward<T>{{n, x, apart, scales, u, lengths}, grad, grad_u, workspace},
                      batch, threads);
    });
}
