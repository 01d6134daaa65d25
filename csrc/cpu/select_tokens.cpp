// Selection of the k best tokens of a temporal pyramid under a quota per level and segment of time,
// and the gradient of their scores. Averaging is linear, so every token is read once and the scores
// are averaged.
//
// tokens [B, L, P, D] fp32, fp16, bf16, or int8 with scales [B, L, P]; u [B, D] fp32; strides [R];
// all contiguous, but for the samples' tokens, which are `apart` numbers from one to the next.
// lengths [B] or null are the valid L; padding is not read. Level r holds
// ceil(L / stride_r) steps of P tokens; the levels are concatenated, and an index is a place
// therein.
#include <algorithm>
#include <cstring>
#include <functional>
#include <type_traits>

#include "parallel.h"
#include "pyramid.h"
#include "selection.h"

namespace sdst {
namespace {

struct Shape {
    int64_t batch, length, per_clip, width, kept, levels, segments;
};

int64_t valid_length(const Shape& n, const int64_t* lengths, int64_t batch) {
    return lengths ? std::clamp<int64_t>(lengths[batch], 0, n.length) : n.length;
}

// Moves the `count` largest keys of [begin, end) to the front.
void best_first(uint64_t* begin, uint64_t* end, int64_t count) {
    if (0 < count && count < end - begin)
        std::nth_element(begin, begin + count, end, std::greater<uint64_t>());
}

// The kept keys of one sample, best first; their number is returned. `scores` [length, P] of its
// tokens; `keys` is workspace for the whole pyramid, `kept` for k.
int64_t choose(const Shape& n, const int64_t* strides, int64_t length, const float* scores,
               uint64_t* keys, uint64_t* kept) {
    uint64_t* rest = keys;  // the end of those that no quota kept
    int64_t count = 0, offset = 0;
    for (int64_t level = 0; level < n.levels; ++level) {
        const int64_t stride = strides[level];
        const int64_t quota = share(n.kept, n.levels, level);
        for (int64_t segment = 0; segment < n.segments; ++segment) {
            uint64_t* end = rest;
            const int64_t stop = first_step(length, stride, n.segments, segment + 1);
            for (int64_t t = first_step(length, stride, n.segments, segment); t < stop; ++t) {
                const int64_t start = t * stride, clips = std::min(stride, length - start);
                for (int64_t p = 0; p < n.per_clip; ++p) {
                    const float* raw = scores + start * n.per_clip + p;
                    *end++ =
                        to_key(mean_score(raw, clips, n.per_clip), offset + t * n.per_clip + p);
                }
            }
            // The group's best go to `kept`, the others close up with the rest.
            const int64_t taken = std::min<int64_t>(share(quota, n.segments, segment), end - rest);
            best_first(rest, end, taken);
            kept = std::copy_n(rest, taken, kept);
            rest = std::copy(rest + taken, end, rest);
            count += taken;
        }
        offset += ceil_div(n.length, stride) * n.per_clip;
    }
    const int64_t more = std::min<int64_t>(n.kept - count, rest - keys);
    best_first(keys, rest, more);
    kept = std::copy_n(keys, more, kept);
    count += more;
    std::sort(kept - count, kept, std::greater<uint64_t>());
    return count;
}

// <x, u> of every raw token [B, L, P]. A task is a token, so that one long video occupies all
// threads.
template <class T>
struct Scoring {
    Shape n;
    const T* tokens;
    int64_t apart;
    const float *scales, *u;
    const int64_t* lengths;
    float* scores;
};

template <class T>
SDST_INLINE void score(const Scoring<T>& x, int64_t begin, int64_t end) {
    const Shape& n = x.n;
    const int64_t sample = n.length * n.per_clip;
    while (begin < end) {
        const int64_t batch = begin / sample, valid = valid_length(n, x.lengths, batch);
        const int64_t first = batch * sample;
        const int64_t stop = std::min(end, first + valid * n.per_clip);
        const T* tokens = x.tokens + batch * x.apart;
        for (int64_t i = begin; i < stop; ++i) {
            x.scores[i] = dot(tokens + (i - first) * n.width, x.u + batch * n.width, n.width);
            if (x.scales) x.scores[i] *= x.scales[i];
        }
        begin = (batch + 1) * sample;
    }
}

// A task is a sample.
struct Selection {
    Shape n;
    const int64_t *lengths, *strides;
    const float* token_scores;
    int64_t* indices;
    float* scores;
    bool* valid;
    uint64_t* keys;  // workspace [B, pyramid]
    int64_t pyramid;
};

void run(const Selection& x, int64_t begin, int64_t end) {
    const Shape& n = x.n;
    for (int64_t batch = begin; batch < end; ++batch) {
        // The output doubles as workspace: both are 64 bits wide.
        int64_t* indices = x.indices + batch * n.kept;
        uint64_t* kept = reinterpret_cast<uint64_t*>(indices);
        const int64_t count = choose(n, x.strides, valid_length(n, x.lengths, batch),
                                     x.token_scores + batch * n.length * n.per_clip,
                                     x.keys + batch * x.pyramid, kept);
        for (int64_t i = 0; i < n.kept; ++i) {
            const uint64_t key = i < count ? kept[i] : 0;
            x.valid[batch * n.kept + i] = i < count;
            x.scores[batch * n.kept + i] = i < count ? key_score(key) : 0;
            indices[i] = i < count ? key_index(key) : 0;
        }
    }
}

struct Backward {
    Pyramid pyramid;
    const float* grad;
    const int64_t* indices;
    const bool* valid;
    float* grad_u;
    int64_t kept;
};

// du = sum_j g_j x_j, x_j the mean of the tokens behind the j-th kept index. A task is a sample.
SDST_MULTIVERSION void run(const Backward& x, int64_t begin, int64_t end) {
    const int64_t width = x.pyramid.width;
    for (int64_t batch = begin; batch < end; ++batch) {
        float* grad_u = x.grad_u + batch * width;
        std::fill_n(grad_u, width, 0.0f);
        for (int64_t j = batch * x.kept; j < (batch + 1) * x.kept; ++j)
            if (x.valid[j]) add_entry(x.pyramid, batch, x.indices[j], x.grad[j], 0, width, grad_u);
    }
}

// One function per dtype: only functions that are no templates compile once per processor.
#define SDST_SCORING(T)                                                           \
    SDST_MULTIVERSION void run(const Scoring<T>& x, int64_t begin, int64_t end) { \
        score(x, begin, end);                                                     \
    }
SDST_SCORING(float)
SDST_SCORING(Half)
SDST_SCORING(BFloat)
SDST_SCORING(int8_t)
#undef SDST_SCORING

template <class Pass>
void run_all(const Pass& pass, int64_t tasks, int64_t grain, int32_t threads) {
    parallel_for(tasks, grain, threads, [&](int64_t begin, int64_t end) { run(pass, begin, end); });
}

constexpr int64_t kGrain = 32;  // tokens, enough to be worth a thread

}  // namespace
}  // namespace sdst

SDST_API void sdst_select_tokens_forward(const void* tokens, const float* scales, const float* u,
                                         const int64_t* lengths, const int64_t* strides,
                                         int64_t* indices, float* scores, bool* valid,
                                         float* token_scores, int64_t* keys, int64_t batch,
                                         int64_t apart, int64_t length, int64_t per_clip,
                                         int64_t width, int64_t kept, int64_t levels,
                                         int64_t segments, int64_t pyramid, int32_t type,
                                         int32_t threads) {
    const sdst::Shape n{batch, length, per_clip, width, kept, levels, segments};
    sdst::with_type(static_cast<sdst::Type>(type), tokens, [&](const auto* x) {
        using T = std::remove_cv_t<std::remove_pointer_t<decltype(x)>>;
        const sdst::Scoring<T> scoring{n, x, apart, scales, u, lengths, token_scores};
        sdst::run_all(scoring, batch * length * per_clip, sdst::kGrain, threads);
    });
    const sdst::Selection selection{n,       lengths, strides, token_scores,
                                    indices, scores,  valid,   reinterpret_cast<uint64_t*>(keys),
                                    pyramid};
    sdst::run_all(selection, batch, 1, threads);
}

SDST_API void sdst_select_tokens_backward(const float* grad, const void* tokens,
                                          const float* scales, const int64_t* indices,
                                          const int64_t* lengths, const int64_t* strides,
                                          const bool* valid, float* grad_u, int64_t batch,
                                          int64_t apart, int64_t length, int64_t per_clip,
                                          int64_t width, int64_t kept, int64_t levels, int32_t type,
                                          int32_t threads) {
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
    const sdst::Backward pass{pyramid, grad, indices, valid, grad_u, kept};
    sdst::run_all(pass, batch, 1, threads);
}
