// (Soft-)NMS of spans in time. For every video, until no score is above min_score: the best span
// left is taken, and the scores s of the others are decayed by their IoU o with it
//
//     hard      s <- -inf         where o > threshold
//     linear    s <- s (1 - o)    where o > threshold
//     gaussian  s <- s exp(-o^2 / sigma)
//
// spans [B, N, 2], scores [B, N] fp32; counts [B] or null are the valid N. order [B, N] is filled
// up with -1, kept [B, N], the scores at which spans were taken, with 0.
#include <algorithm>
#include <cmath>
#include <vector>

#include "parallel.h"
#include "sdst.h"
#include "suppression.h"
#include "vectors.h"

namespace sdst {
namespace {

typedef int32_t LaneIndices __attribute__((vector_size(32)));

// A video's spans, filled up to whole lanes with scores of -inf.
struct Video {
    int64_t size;
    float *start, *end, *score;
};

struct Span {
    float start, end;
};

SDST_INLINE Lanes iou(const Lanes& start, const Lanes& end, const Span& taken) {
    const Lanes left = start > taken.start ? start : Lanes{} + taken.start;
    const Lanes right = end < taken.end ? end : Lanes{} + taken.end;
    const Lanes inside = right - left;
    const Lanes joint = (end - start) + (taken.end - taken.start) - inside;
    return (inside > 0) & (joint > 0) ? inside / joint : Lanes{};
}

template <Method method>
SDST_INLINE Lanes decay(const Suppression& x, const Lanes& score, const Lanes& o) {
    if (method == Method::hard) return o > x.threshold ? Lanes{} - INFINITY : score;
    if (method == Method::linear) return o > x.threshold ? score * (1 - o) : score;
    Lanes decayed = score;
    for (int j = 0; j < 8; ++j)
        if (o[j] > 0) decayed[j] *= std::exp(-o[j] * o[j] / x.sigma);
    return decayed;
}

// Decays every score by the overlap with `taken`, and finds the best of them on the way.
template <Method method>
SDST_INLINE Best step(const Suppression& x, const Video& video, const Span& taken) {
    Lanes best = Lanes{} + x.min_score;
    LaneIndices at = LaneIndices{} - 1, index = {0, 1, 2, 3, 4, 5, 6, 7};
    for (int64_t i = 0; i < video.size; i += 8, index += 8) {
        const Lanes o = iou(load<Lanes>(video.start + i), load<Lanes>(video.end + i), taken);
        const Lanes score = decay<method>(x, load<Lanes>(video.score + i), o);
        store(video.score + i, score);
        const LaneIndices better = score > best;  // never for NaN
        best = better ? score : best;
        at = better ? index : at;
    }
    Best found{0, -1};
    for (int j = 0; j < 8; ++j) {
        const Best mine{best[j], at[j]};
        if (mine.better_than(found)) found = mine;
    }
    return found;
}

template <Method method>
SDST_INLINE void suppress(const Suppression& x, const Video& video, int64_t* order, float* kept) {
    Span taken{0, 0};  // overlaps nothing
    for (;;) {
        const Best best = step<method>(x, video, taken);
        if (best.index < 0) return;
        *order++ = best.index;
        *kept++ = best.score;
        video.score[best.index] = -INFINITY;
        taken = {video.start[best.index], video.end[best.index]};
    }
}

SDST_MULTIVERSION void suppress_video(const Suppression& x, const Video& video, int64_t* order,
                                      float* kept) {
    switch (x.method) {
        case Method::hard:
            return suppress<Method::hard>(x, video, order, kept);
        case Method::linear:
            return suppress<Method::linear>(x, video, order, kept);
        case Method::gaussian:
            return suppress<Method::gaussian>(x, video, order, kept);
    }
}

}  // namespace
}  // namespace sdst

SDST_API void sdst_temporal_nms(const float* spans, const float* scores, const int64_t* counts,
                                int64_t* order, float* kept, int64_t batch, int64_t count,
                                int64_t method, float threshold, float sigma, float min_score,
                                int32_t threads) {
    const sdst::Suppression x{static_cast<sdst::Method>(method), threshold, sigma, min_score};
    const int64_t padded = (count + 7) / 8 * 8;
    // About 20 microseconds' worth of pairs.
    const int64_t grain = 1 + (1 << 14) / (count * count + 1);
    sdst::parallel_for(batch, grain, threads, [&](int64_t begin, int64_t end) {
        std::vector<float> memory(3 * padded);
        float *first = memory.data(), *last = first + padded, *score = last + padded;
        for (int64_t b = begin; b < end; ++b) {
            const int64_t valid = counts ? std::clamp<int64_t>(counts[b], 0, count) : count;
            const float* span = spans + 2 * b * count;
            for (int64_t i = 0; i < valid; ++i) {
                first[i] = span[2 * i];
                last[i] = span[2 * i + 1];
                score[i] = scores[b * count + i];
            }
            std::fill(score + valid, score + padded, -INFINITY);
            std::fill_n(order + b * count, count, -1);
            std::fill_n(kept + b * count, count, 0.0f);
            sdst::suppress_video(x, {padded, first, last, score}, order + b * count,
                                 kept + b * count);
        }
    });
}
