// (Soft-)NMS of spans in time, a warp per video: every lane keeps the scores of its own spans and
// decays them by the overlap with the span that all lanes agreed on last. What is computed is in
// csrc/cpu/temporal_nms.cpp.
//
// spans [B, N, 2], scores [B, N] fp32; counts [B] or null are the valid N. left [B, N] is work
// space; order [B, N] is filled up with -1, kept [B, N] with 0.
#include <cuda_runtime.h>

#include <cmath>

#include "sdst.h"
#include "suppression.h"
#include "warp.h"

namespace sdst {

struct Span {
    float start, end;
};

__device__ float iou(const Span& a, const Span& b) {
    const float inside = fminf(a.end, b.end) - fmaxf(a.start, b.start);
    const float joint = (a.end - a.start) + (b.end - b.start) - inside;
    return inside > 0 && joint > 0 ? inside / joint : 0;
}

__device__ float decay(const Suppression& x, float score, float o) {
    if (x.method == Method::gaussian) return o > 0 ? score * expf(-o * o / x.sigma) : score;
    if (!(o > x.threshold)) return score;
    return x.method == Method::hard ? -INFINITY : score * (1 - o);
}

__device__ Best best_of_all(Best mine) {
    for (int step = kWarp / 2; step > 0; step /= 2) {
        const Best other{__shfl_xor_sync(kAllLanes, mine.score, step),
                         __shfl_xor_sync(kAllLanes, mine.index, step)};
        if (other.better_than(mine)) mine = other;
    }
    return mine;
}

extern "C" __global__ void __launch_bounds__(kWarp)
    suppress(const float* spans, const float* scores, const int64_t* counts, float* left,
             int64_t* order, float* kept, int count, Suppression x) {
    const int64_t video = blockIdx.x;
    spans += 2 * video * count;
    scores += video * count;
    left += video * count;
    order += video * count;
    kept += video * count;
    const int64_t stated = counts ? counts[video] : count;
    const int valid = stated < count ? static_cast<int>(stated < 0 ? 0 : stated) : count;
    for (int i = threadIdx.x; i < valid; i += kWarp) left[i] = scores[i];
    Span taken{0, 0};  // overlaps nothing
    int rank = 0;
    for (;; ++rank) {
        Best best{0, -1};
        for (int i = threadIdx.x; i < valid; i += kWarp) {
            const float score = decay(x, left[i], iou({spans[2 * i], spans[2 * i + 1]}, taken));
            left[i] = score;
            const Best mine{score, i};
            if (score > x.min_score && mine.better_than(best)) best = mine;
        }
        best = best_of_all(best);
        if (best.index < 0) break;
        if (best.index % kWarp == threadIdx.x) {
            left[best.index] = -INFINITY;
            order[rank] = best.index;
            kept[rank] = best.score;
        }
        taken = {spans[2 * best.index], spans[2 * best.index + 1]};
    }
    for (int i = rank + threadIdx.x; i < count; i += kWarp) {
        order[i] = -1;
        kept[i] = 0;
    }
}

}  // namespace sdst
