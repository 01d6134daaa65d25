// Selection of the k best tokens of a temporal pyramid from their scores, under a quota per level
// and segment of time. Two kernels, no wait for the host: a block per group (level and segment)
// keeps the group's best, then a block per sample adds what the quotas left open and sorts.
//
// scores [B, L, P] fp32 of the raw tokens; lengths [B] or null are the valid L; what lies beyond is
// not read. Outputs indices, kept_scores, valid [B, k]. The best of a group are found by radix
// select over keys without ties, so the answer is exact and the same in every run, whatever the
// order of the atomics. Shared memory does not grow with the video.
//
// Work space: all_keys [B, entries], of which those taken become 0, and all_taken [B, 2, k], the
// taken ones: k places that the groups own by their quota, 0 where a group has too few, and k for
// the rest.
#include <cuda_runtime.h>

#include "sdst.h"
#include "selection.h"
#include "warp.h"

namespace sdst {

constexpr int kThreads = 256;
constexpr int kBlocks = 4;  // of a multiprocessor; for more, the compiler spills registers
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;  // one per thread
constexpr int kMaxLevels = 8;             // MAX_LEVELS of kernels/select_tokens/cuda.py

// As Pyramid in kernels/select_tokens/cuda.py.
struct Pyramid {
    int64_t length, per_clip, kept, levels, segments, entries;
    int64_t strides[kMaxLevels];

    __device__ int64_t valid_length(const int64_t* lengths, int64_t sample) const {
        if (!lengths || lengths[sample] >= length) return length;
        return lengths[sample] < 0 ? 0 : lengths[sample];
    }
    __device__ int64_t offset(int64_t level) const {
        int64_t steps = 0;
        for (int64_t r = 0; r < level; ++r) steps += ceil_div(length, strides[r]);
        return steps * per_clip;
    }
};

struct Search {
    int counts[kDigits];
    int digit;     // of the threshold
    int needed;    // keys with the threshold's digits so far that reach it
    bool settled;  // all of these do
};

// By the first warp: the digit that the `needed`-th largest key has.
__device__ void find_digit(Search& s, int needed) {
    constexpr int each = kDigits / kWarp;
    const int lane = threadIdx.x, top = kDigits - 1 - lane * each;
    int mine = 0;
    for (int i = 0; i < each; ++i) mine += s.counts[top - i];
    int above = mine;  // those of the lanes up to this one, then without its own
    for (int step = 1; step < kWarp; step *= 2) {
        const int before = __shfl_up_sync(kAllLanes, above, step);
        if (lane >= step) above += before;
    }
    above -= mine;
    if (needed <= above || needed > above + mine) return;
    int digit = top;
    while (above + s.counts[digit] < needed) above += s.counts[digit--];
    s.digit = digit;
    s.needed = needed - above;
    s.settled = s.needed == s.counts[digit];
}

// What exactly `needed` of the keys reach, 0 < needed <= those that are not 0; by all threads of
// the block. A digit a turn, the highest first: keys are counted by it, and only those that have
// the threshold's remain in the search.
__device__ uint64_t threshold(const uint64_t* keys, int64_t count, int needed, Search& s) {
    uint64_t digits = 0;
    for (int shift = 64 - kDigitBits; shift >= 0; shift -= kDigitBits) {
        s.counts[threadIdx.x] = 0;
        __syncthreads();
        for (int64_t i = threadIdx.x; i < count; i += kThreads)
            if (keys[i] >> shift >> kDigitBits == digits)
                atomicAdd(&s.counts[keys[i] >> shift & (kDigits - 1)], 1);
        __syncthreads();
        if (threadIdx.x < kWarp) find_digit(s, needed);
        __syncthreads();
        digits = digits << kDigitBits | static_cast<uint64_t>(s.digit);
        needed = s.needed;
        if (s.settled) return digits << shift;
    }
    return digits;
}

// Moves the `needed` largest keys to `taken` and leaves 0 in their places; by all threads.
__device__ void take_best(uint64_t* keys, int64_t count, int needed, uint64_t* taken) {
    __shared__ Search search;
    __shared__ int places;
    const uint64_t least = threshold(keys, count, needed, search);
    if (threadIdx.x == 0) places = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
        if (keys[i] < least) continue;
        taken[atomicAdd(&places, 1)] = keys[i];
        keys[i] = 0;
    }
}

// A block per sample, level and segment.
extern "C" __global__ void __launch_bounds__(kThreads, kBlocks)
    fill_quotas(const float* scores, const int64_t* lengths, uint64_t* all_keys,
                uint64_t* all_taken, const __grid_constant__ Pyramid n) {
    const int64_t groups = n.levels * n.segments, sample = blockIdx.x / groups;
    const int64_t level = blockIdx.x % groups / n.segments, segment = blockIdx.x % n.segments;
    const int64_t length = n.valid_length(lengths, sample), stride = n.strides[level];
    scores += sample * n.length * n.per_clip;

    // The last group extends to the end of the level, over steps that are not valid.
    const int64_t first = first_step(length, stride, n.segments, segment);
    const int64_t valid = first_step(length, stride, n.segments, segment + 1) - first;
    const bool last = segment == n.segments - 1;
    const int64_t steps = last ? ceil_div(n.length, stride) - first : valid;
    const int64_t begin = n.offset(level) + first * n.per_clip;
    uint64_t* keys = all_keys + sample * n.entries + begin;
    for (int64_t i = threadIdx.x; i < steps * n.per_clip; i += kThreads) {
        const int64_t start = (first + i / n.per_clip) * stride;
        const int64_t clips = length - start < stride ? length - start : stride;
        const float* raw = scores + start * n.per_clip + i % n.per_clip;
        keys[i] = clips > 0 ? to_key(mean_score(raw, clips, n.per_clip), begin + i) : 0;
    }

    const int64_t quota = share(n.kept, n.levels, level);
    const int64_t needed = share(quota, n.segments, segment);
    const int64_t place =
        share_begin(n.kept, n.levels, level) + share_begin(quota, n.segments, segment);
    const int64_t there = valid * n.per_clip, found = needed < there ? needed : there;
    uint64_t* taken = all_taken + 2 * sample * n.kept + place;
    for (int64_t i = found + threadIdx.x; i < needed; i += kThreads) taken[i] = 0;
    if (found > 0) take_best(keys, steps * n.per_clip, static_cast<int>(found), taken);
}

// A block per sample.
extern "C" __global__ void __launch_bounds__(kThreads)
    finish(const int64_t* lengths, uint64_t* all_keys, uint64_t* all_taken, int64_t* indices,
           float* kept_scores, bool* valid, const __grid_constant__ Pyramid n) {
    __shared__ int by_quota;
    const int64_t sample = blockIdx.x, length = n.valid_length(lengths, sample);
    uint64_t* taken = all_taken + 2 * sample * n.kept;
    if (threadIdx.x == 0) by_quota = 0;
    __syncthreads();
    int mine = 0;
    for (int64_t i = threadIdx.x; i < n.kept; i += kThreads) mine += taken[i] != 0;
    atomicAdd(&by_quota, mine);
    __syncthreads();

    int64_t there = 0;
    for (int64_t r = 0; r < n.levels; ++r) there += ceil_div(length, n.strides[r]) * n.per_clip;
    const int64_t count = n.kept < there ? n.kept : there, more = count - by_quota;
    if (more > 0)
        take_best(all_keys + sample * n.entries, n.entries, static_cast<int>(more), taken + n.kept);
    __syncthreads();

    // The place of a key is the number of those above it.
    indices += sample * n.kept;
    kept_scores += sample * n.kept;
    valid += sample * n.kept;
    const int64_t places = n.kept + more;
    for (int64_t i = threadIdx.x; i < places; i += kThreads) {
        if (taken[i] == 0) continue;
        int64_t rank = 0;
        for (int64_t j = 0; j < places; ++j) rank += taken[j] > taken[i];
        indices[rank] = key_index(taken[i]);
        kept_scores[rank] = key_score(taken[i]);
        valid[rank] = true;
    }
    for (int64_t i = count + threadIdx.x; i < n.kept; i += kThreads) {
        indices[i] = 0;
        kept_scores[i] = 0;
        valid[i] = false;
    }
}

}  // namespace sdst
