// Dropout by hashing: an element stays if the hash of its place and the seed is not below the
// threshold, rate * 2^32, and is then multiplied by `scale`. See kernels/dropout/reference.py.
#include <algorithm>

#include "hashing.h"
#include "parallel.h"
#include "sdst.h"
#include "tokens.h"

namespace sdst {
namespace {

template <class T>
struct Dropout {
    const T* x;
    T* out;
    int64_t count;
    Seed seed;
    uint32_t threshold;
    float scale;
};

// A task is a register of elements.
template <class T>
SDST_INLINE void run(const Dropout<T>& d, int64_t begin, int64_t end) {
    for (int64_t i = 8 * begin; i < 8 * end; i += 8) {
        const int64_t count = std::min<int64_t>(d.count - i, 8);
        const Lanes x = count == 8 ? widen(d.x + i) : widen(d.x + i, count);
        const Words kept = reinterpret_cast<Words>(numbers(d.seed, i) >= d.threshold);
        const Lanes out = reinterpret_cast<Lanes>(reinterpret_cast<Words>(d.scale * x) & kept);
        if (count == 8)
            narrow(out, d.out + i);
        else
            narrow(out, d.out + i, count);
    }
}

SDST_MULTIVERSION void run_fp32(const Dropout<float>& d, int64_t begin, int64_t end) {
    run(d, begin, end);
}

SDST_MULTIVERSION void run_bf16(const Dropout<BFloat>& d, int64_t begin, int64_t end) {
    run(d, begin, end);
}

template <class T, class Run>
void run_all(const void* x, const int64_t* seed, void* out, int64_t count, int64_t threshold,
             float scale, int32_t threads, const Run& run) {
    const Dropout<T> dropout{static_cast<const T*>(x),
                             static_cast<T*>(out),
                             count,
                             Seed(*seed),
                             static_cast<uint32_t>(threshold),
                             scale};
    constexpr int64_t grain = 4096;  // worth a thread of its own
    parallel_for((count + 7) / 8, grain, threads,
                 [&](int64_t begin, int64_t end) { run(dropout, begin, end); });
}

}  // namespace
}  // namespace sdst

// x and out are of fp32 or bf16.
SDST_API void sdst_dropout(const void* x, const int64_t* seed, void* out, int64_t count,
                           int64_t threshold, float scale, int32_t type, int32_t threads) {
    if (static_cast<sdst::Type>(type) == sdst::Type::bf16)
        sdst::run_all<sdst::BFloat>(x, seed, out, count, threshold, scale, threads, sdst::run_bf16);
    else
        sdst::run_all<float>(x, seed, out, count, threshold, scale, threads, sdst::run_fp32);
}
