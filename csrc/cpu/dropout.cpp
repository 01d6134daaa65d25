// Dropout by hashing: an element stays if the hash of its place and the seed is not below the
// threshold, rate * 2^32, and is then multiplied by `scale`. See kernels/dropout/reference.py.
#include "parallel.h"
#include "sdst.h"
#include "vectors.h"

namespace sdst {
namespace {

typedef uint32_t Words __attribute__((vector_size(32)));

struct Dropout {
    const float* x;
    float* out;
    int64_t count;
    uint32_t low, high;  // the seed's halves
    uint32_t threshold;
    float scale;
};

SDST_INLINE Words numbers(const Dropout& d, int64_t first) {
    const Words step{0, 1, 2, 3, 4, 5, 6, 7};
    Words x = (step + static_cast<uint32_t>(first)) * 0x9e3779b1u + d.low;
    x = (x ^ x >> 16) * 0x7feb352du;
    x ^= d.high;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

// A task is a register of elements.
SDST_MULTIVERSION void run(const Dropout& d, int64_t begin, int64_t end) {
    for (int64_t i = 8 * begin; i < 8 * end; i += 8) {
        const Words kept = reinterpret_cast<Words>(numbers(d, i) >= d.threshold);
        const int64_t rest = d.count - i;
        if (rest >= 8) {
            const Lanes scaled = d.scale * load<Lanes>(d.x + i);
            store<Lanes>(d.out + i,
                         reinterpret_cast<Lanes>(reinterpret_cast<Words>(scaled) & kept));
            continue;
        }
        for (int64_t j = 0; j < rest; ++j) d.out[i + j] = kept[j] ? d.scale * d.x[i + j] : 0;
    }
}

}  // namespace
}  // namespace sdst

SDST_API void sdst_dropout(const float* x, const int64_t* seed, float* out, int64_t count,
                           int64_t threshold, float scale, int32_t threads) {
    const sdst::Dropout dropout{x,
                                out,
                                count,
                                static_cast<uint32_t>(*seed),
                                static_cast<uint32_t>(*seed >> 32),
                                static_cast<uint32_t>(threshold),
                                scale};
    constexpr int64_t grain = 4096;  // worth a thread of its own
    sdst::parallel_for((count + 7) / 8, grain, threads,
                       [&](int64_t begin, int64_t end) { sdst::run(dropout, begin, end); });
}
