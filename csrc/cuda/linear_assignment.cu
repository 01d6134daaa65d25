// Batched linear assignment on the device that the costs live on, so that a training step never
// waits for the host: a warp per problem, the algorithm in assignment.h.
//
// cost [B, M, G] fp32, M >= G; sizes [B] valid columns; out [B, G] the row of every column, -1
// beyond sizes. A problem with a valid cost that is not finite gets -1 throughout: raising would
// mean waiting.
#include <cuda_runtime.h>

#include "assignment.h"
#include "sdst.h"
#include "warp.h"

namespace sdst {

struct Warp {
    __device__ static int member() { return threadIdx.x; }
    __device__ static int size() { return kWarp; }
    __device__ static void sync() { __syncwarp(); }
    __device__ static bool all(bool holds) { return __all_sync(kAllLanes, holds); }
    __device__ static Nearest least(Nearest mine) {
        for (int step = kWarp / 2; step > 0; step /= 2) {
            const double distance = __shfl_xor_sync(kAllLanes, mine.distance, step);
            const int row = __shfl_xor_sync(kAllLanes, mine.row, step);
            if (distance < mine.distance || (distance == mine.distance && row < mine.row))
                mine = {distance, row};
        }
        return mine;
    }
};

extern "C" __global__ void __launch_bounds__(kWarp)
    assign_problems(const float* cost, const int64_t* sizes, int64_t* out, int rows, int columns) {
    extern __shared__ double memory[];
    const int64_t problem = blockIdx.x;
    assign<Warp>(memory, cost + problem * rows * columns, sizes[problem], rows, columns,
                 out + problem * columns);
}

}  // namespace sdst
