// Marking of clips by how well they match a sentence:
//
//     s_t = <D_t, q> / (|D_t| |q|),   z = s standardised over the valid clips,   out = D + z c
//
// D and out [B, L, F] are of fp32, fp16 or bf16, q [B, F], c [F] and z [B, L] of fp32; all
// contiguous, but for the videos of D, which are `apart` numbers from one to the next. lengths [B]
// or null are the valid L; beyond them z is 0 and out is D. See kernels/mark_saliency/reference.py.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "parallel.h"
#include "tokens.h"

namespace sdst {
namespace {

constexpr int64_t kClips = 64;  // of a block, a task of long videos
constexpr float kLeastNorm = 1e-12f;

struct Shape {
    int64_t batch, length, width;

    int64_t blocks() const { return (length + kClips - 1) / kClips; }
};

template <class T>
struct Forward {
    Shape n;
    const T* dense;
    int64_t apart;
    const float *sentence, *direction;
    const int64_t* lengths;
    T* out;
    float* z;

    int64_t valid(int64_t video) const {
        return lengths ? std::min(lengths[video], n.length) : n.length;
    }

    const T* clip(int64_t video, int64_t t) const { return dense + video * apart + t * n.width; }
};

// s of the valid clips [begin, end) of a video, into z.
template <class T>
SDST_INLINE void score(const Forward<T>& x, int64_t video, int64_t begin, int64_t end) {
    const int64_t width = x.n.width, whole = width / 8 * 8;
    const float* q = x.sentence + video * width;
    const float norm = std::max(std::sqrt(dot(q, q, width)), kLeastNorm);
    end = std::min(end, x.valid(video));
    for (int64_t t = begin; t < end; ++t) {
        const T* clip = x.clip(video, t);
        Lanes along = {}, squares = {};
        for (int64_t f = 0; f < whole; f += 8) {
            const Lanes values = widen(clip + f);
            along += values * load<Lanes>(q + f);
            squares += values * values;
        }
        if (whole < width) {
            const Lanes values = widen(clip + whole, width - whole);
            along += values * widen(q + whole, width - whole);
            squares += values * values;
        }
        const float length = std::max(std::sqrt(sum(squares)), kLeastNorm);
        x.z[video * x.n.length + t] = sum(along) / norm / length;
    }
}

// s of a video to z, in place.
template <class T>
SDST_INLINE void standardise(const Forward<T>& x, int64_t video) {
    float* z = x.z + video * x.n.length;
    const int64_t length = std::max<int64_t>(x.valid(video), 0);
    double total = 0, squares = 0;
    for (int64_t t = 0; t < length; ++t) total += z[t];
    const float mean = static_cast<float>(total / std::max<int64_t>(length, 1));
    for (int64_t t = 0; t < length; ++t) {
        z[t] -= mean;
        squares += z[t] * z[t];
    }
    const double variance = squares / std::max<int64_t>(length, 1);
    const float scale = static_cast<float>(1 / std::sqrt(variance + 1e-6));
    for (int64_t t = 0; t < length; ++t) z[t] *= scale;
    std::fill(z + length, z + x.n.length, 0.0f);
}

// Writes clips [begin, end) of a video.
template <class T>
SDST_INLINE void mark(const Forward<T>& x, int64_t video, int64_t begin, int64_t end) {
    const int64_t width = x.n.width, whole = width / 8 * 8, rest = width - whole;
    const int64_t valid = std::max(begin, std::min(end, x.valid(video)));
    T* out = x.out + (video * x.n.length + begin) * width;
    for (int64_t t = begin; t < valid; ++t, out += width) {
        const T* clip = x.clip(video, t);
        const float z = x.z[video * x.n.length + t];
        for (int64_t f = 0; f < whole; f += 8)
            narrow(widen(clip + f) + z * load<Lanes>(x.direction + f), out + f);
        if (rest) {
            const Lanes added = z * widen(x.direction + whole, rest);
            narrow(widen(clip + whole, rest) + added, out + whole, rest);
        }
    }
    std::copy_n(x.clip(video, valid), (end - valid) * width, out);
}

enum class Phase { all, score, standardise, mark };

// A task is a video, or a block of clips where a video is scored or marked alone.
template <class T>
SDST_INLINE void run_phase(const Forward<T>& x, Phase phase, int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
        if (phase == Phase::all) {
            score(x, task, 0, x.n.length);
            standardise(x, task);
            mark(x, task, 0, x.n.length);
        } else if (phase == Phase::standardise) {
            standardise(x, task);
        } else {
            const int64_t first = task % x.n.blocks() * kClips;
            const int64_t last = std::min(first + kClips, x.n.length);
            if (phase == Phase::score)
                score(x, task / x.n.blocks(), first, last);
            else
                mark(x, task / x.n.blocks(), first, last);
        }
    }
}

template <class T>
struct Backward {
    const T* grad;
    const float* z;
    float* partial;  // [blocks, F]
    int64_t clips, width, block;
};

// The sum of z g over a block of clips, which is a task; clips with z = 0 are not read.
template <class T>
SDST_INLINE void run_block(const Backward<T>& x, int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
        float* sums = x.partial + task * x.width;
        std::fill_n(sums, x.width, 0.0f);
        const int64_t last = std::min((task + 1) * x.block, x.clips);
        for (int64_t i = task * x.block; i < last; ++i)
            if (x.z[i] != 0) accumulate(x.z[i], x.grad + i * x.width, sums, x.width);
    }
}

// One function per dtype: only functions that are no templates compile once per processor.
#define SDST_MARKING(T)                                                                        \
    SDST_MULTIVERSION void run(const Forward<T>& x, Phase phase, int64_t begin, int64_t end) { \
        run_phase(x, phase, begin, end);                                                       \
    }                                                                                          \
    SDST_MULTIVERSION void run(const Backward<T>& x, int64_t begin, int64_t end) {             \
        run_block(x, begin, end);                                                              \
    }
SDST_MARKING(float)
SDST_MARKING(Half)
SDST_MARKING(BFloat)
#undef SDST_MARKING

template <class T>
void run_all(const Forward<T>& x, int32_t threads) {
    const auto over = [&](int64_t tasks, Phase phase) {
        parallel_for(tasks, 1, threads,
                     [&](int64_t begin, int64_t end) { run(x, phase, begin, end); });
    };
    if (x.n.batch >= threads) return over(x.n.batch, Phase::all);
    over(x.n.batch * x.n.blocks(), Phase::score);
    over(x.n.batch, Phase::standardise);
    over(x.n.batch * x.n.blocks(), Phase::mark);
}

// Calls body(T*) with the type of activations, which are never int8.
template <class Body>
void with_float_type(int32_t type, const void* values, const Body& body) {
    with_type(static_cast<Type>(type), values, [&](const auto* x) {
        if constexpr (!std::is_same_v<decltype(x), const int8_t*>) body(x);
    });
}

}  // namespace
}  // namespace sdst

SDST_API void sdst_mark_saliency_forward(const void* dense, const float* sentence,
                                         const float* direction, const int64_t* lengths, void* out,
                                         float* z, int64_t batch, int64_t apart, int64_t length,
                                         int64_t width, int32_t type, int32_t threads) {
    sdst::with_float_type(type, dense, [&](const auto* x) {
        using T = std::remove_cv_t<std::remove_pointer_t<decltype(x)>>;
        const sdst::Shape n{batch, length, width};
        sdst::run_all(
            sdst::Forward<T>{n, x, apart, sentence, direction, lengths, static_cast<T*>(out), z},
            threads);
    });
}

SDST_API void sdst_mark_saliency_backward(const void* grad, const float* z, float* partial,
                                          float* grad_direction, int64_t clips, int64_t width,
                                          int64_t block, int32_t type, int32_t threads) {
    const int64_t blocks = (clips + block - 1) / block;
    sdst::with_float_type(type, grad, [&](const auto* x) {
        using T = std::remove_cv_t<std::remove_pointer_t<decltype(x)>>;
        const sdst::Backward<T> pass{x, z, partial, clips, width, block};
        sdst::parallel_for(blocks, 1, threads,
                           [&](int64_t begin, int64_t end) { sdst::run(pass, begin, end); });
    });
    std::fill_n(grad_direction, width, 0.0f);
    for (int64_t i = 0; i < blocks; ++i)
        for (int64_t f = 0; f < width; ++f) grad_direction[f] += partial[i * width + f];
}
