// Batched linear assignment, a problem per thread: the algorithm is in assignment.h.
//
// cost [B, M, G] fp32, M >= G; sizes [B] valid columns; out [B, G] the row of every column, -1
// beyond sizes and throughout a problem with a valid cost that is not finite.
#include <vector>

#include "assignment.h"
#include "parallel.h"
#include "sdst.h"

namespace sdst {
namespace {

// A team of one.
struct Alone {
    static int member() { return 0; }
    static int size() { return 1; }
    static void sync() {}
    static bool all(bool holds) { return holds; }
    static Nearest least(Nearest mine) { return mine; }
};

}  // namespace
}  // namespace sdst

SDST_API void sdst_linear_assignment(const float* cost, const int64_t* sizes, int64_t* out,
                                     int64_t batch, int64_t rows, int64_t columns,
                                     int32_t threads) {
    const int m = static_cast<int>(rows), g = static_cast<int>(columns);
    // About 20 microseconds' worth of problems: a scan of all rows, twice per column or more.
    const int64_t grain = 1 + (1 << 13) / (2 * rows * columns + 1);
    sdst::parallel_for(batch, grain, threads, [=](int64_t begin, int64_t end) {
        std::vector<double> memory(sdst::workspace_bytes(m, g) / sizeof(double) + 1);
        for (int64_t b = begin; b < end; ++b)
            sdst::assign<sdst::Alone>(memory.data(), cost + b * rows * columns, sizes[b], m, g,
                                      out + b * columns);
    });
}
