// Batched linear assignment on the device that the costs live on, so that a training step never
// waits for the host: shortest augmenting paths with potentials (Jonker and Volgenant, 1987), one
// warp per problem, the lanes sharing the scan over rows.
//
// cost [B, M, G] fp32, M >= G; sizes [B] valid columns; out [B, G] the row of every column, -1
// beyond sizes. A problem with a cost that is not finite gets -1 throughout: raising would mean
// waiting.
#include <cuda_runtime.h>

#include <cmath>

#include "sdst.h"

namespace sdst {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kAll = 0xffffffffu;

// Rows and columns count from 1; row 0 is where every augmenting path begins.
struct Workspace {
    double *row_potential, *column_potential, *distance;
    int *column_of_row, *previous, *visited;
};

__host__ __device__ constexpr size_t workspace_bytes(int rows, int columns) {
    return (2 * (rows + 1) + columns + 1) * sizeof(double) + 3 * (rows + 1) * sizeof(int);
}

__device__ Workspace carve(char* memory, int rows, int columns) {
    Workspace w;
    w.row_potential = reinterpret_cast<double*>(memory);
    w.distance = w.row_potential + rows + 1;
    w.column_potential = w.distance + rows + 1;
    w.column_of_row = reinterpret_cast<int*>(w.column_potential + columns + 1);
    w.previous = w.column_of_row + rows + 1;
    w.visited = w.previous + rows + 1;
    return w;
}

struct Nearest {
    double distance;
    int row;
};

// The least distance of all lanes; of equals the lower row.
__device__ Nearest least(Nearest mine) {
    for (int step = kWarp / 2; step > 0; step /= 2) {
        const double distance = __shfl_xor_sync(kAll, mine.distance, step);
        const int row = __shfl_xor_sync(kAll, mine.row, step);
        if (distance < mine.distance || (distance == mine.distance && row < mine.row))
            mine = {distance, row};
    }
    return mine;
}

// Relaxes every unvisited row from `row` and gives the nearest.
__device__ Nearest scan(const Workspace& w, const float* cost, int rows, int columns, int row) {
    const int column = w.column_of_row[row];
    Nearest nearest{INFINITY, rows + 1};
    for (int r = 1 + threadIdx.x; r <= rows; r += kWarp) {
        if (w.visited[r]) continue;
        const double reduced = cost[(r - 1) * static_cast<int64_t>(columns) + column - 1] -
                               w.column_potential[column] - w.row_potential[r];
        if (reduced < w.distance[r]) {
            w.distance[r] = reduced;
            w.previous[r] = row;
        }
        if (w.distance[r] < nearest.distance) nearest = {w.distance[r], r};
    }
    return least(nearest);
}

// Gives `column` a row, moving others along the shortest augmenting path. False if there is none.
__device__ bool augment(const Workspace& w, const float* cost, int rows, int columns, int column) {
    for (int r = threadIdx.x; r <= rows; r += kWarp) {
        w.distance[r] = INFINITY;
        w.visited[r] = 0;
    }
    if (threadIdx.x == 0) w.column_of_row[0] = column;
    __syncwarp();
    int row = 0;
    for (bool taken = true; taken;) {
        if (threadIdx.x == 0) w.visited[row] = 1;
        __syncwarp();
        const Nearest nearest = scan(w, cost, rows, columns, row);
        if (nearest.row > rows || !(fabs(nearest.distance) < INFINITY)) return false;
        __syncwarp();
        for (int r = threadIdx.x; r <= rows; r += kWarp) {
            if (w.visited[r]) {
                // Visited rows hold different columns: no two lanes write the same one.
                w.column_potential[w.column_of_row[r]] += nearest.distance;
                w.row_potential[r] -= nearest.distance;
            } else {
                w.distance[r] -= nearest.distance;
            }
        }
        row = nearest.row;
        // Read by all before the first lane rewrites the path below.
        taken = w.column_of_row[row] != 0;
        __syncwarp();
    }
    if (threadIdx.x == 0) {
        while (row != 0) {
            const int before = w.previous[row];
            w.column_of_row[row] = w.column_of_row[before];
            row = before;
        }
    }
    __syncwarp();
    return true;
}

__global__ void __launch_bounds__(kWarp)
    assign(const float* cost, const int64_t* sizes, int64_t* out, int rows, int columns) {
    extern __shared__ double memory[];
    const Workspace w = carve(reinterpret_cast<char*>(memory), rows, columns);
    const int64_t problem = blockIdx.x;
    cost += problem * rows * columns;
    out += problem * columns;
    for (int r = threadIdx.x; r <= rows; r += kWarp) w.row_potential[r] = w.column_of_row[r] = 0;
    for (int c = threadIdx.x; c <= columns; c += kWarp) w.column_potential[c] = 0;
    for (int c = threadIdx.x; c < columns; c += kWarp) out[c] = -1;
    __syncwarp();
    const int64_t size = sizes[problem];
    for (int column = 1; column <= columns && column <= size; ++column)
        if (!augment(w, cost, rows, columns, column)) return;
    for (int r = 1 + threadIdx.x; r <= rows; r += kWarp)
        if (w.column_of_row[r] != 0) out[w.column_of_row[r] - 1] = r - 1;
}

}  // namespace
}  // namespace sdst

// 0, or the CUDA error code. `stream` is the caller's current stream.
SDST_API int32_t sdst_linear_assignment(const float* cost, const int64_t* sizes, int64_t* out,
                                        int64_t batch, int64_t rows, int64_t columns,
                                        void* stream) {
    if (batch == 0 || columns == 0) return 0;
    const int m = static_cast<int>(rows), g = static_cast<int>(columns);
    sdst::assign<<<static_cast<unsigned>(batch), sdst::kWarp, sdst::workspace_bytes(m, g),
                   static_cast<cudaStream_t>(stream)>>>(cost, sizes, out, m, g);
    return static_cast<int32_t>(cudaGetLastError());
}
