// Runs a CUDA kernel of one warp per block on the CPU: a lane is a fiber that runs until the warp
// synchronises or shuffles, then the next one does. Enough for the sources of csrc/cuda that give a
// warp to every problem.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <functional>
#include <vector>

#define __host__
#define __device__
#define __global__
#define __launch_bounds__(n)

struct Index {
    unsigned x;
};
inline Index threadIdx{0}, blockIdx{0};

namespace shim {

constexpr unsigned lanes = 32;
inline double exchanged[lanes];
inline std::vector<double> shared;
inline ucontext_t scheduler, fibers[lanes];
inline bool finished[lanes];
inline std::function<void()> body;

inline void run_lane() {
    body();
    finished[threadIdx.x] = true;
    swapcontext(&fibers[threadIdx.x], &scheduler);
}

inline void yield() { swapcontext(&fibers[threadIdx.x], &scheduler); }

inline void run_warp() {
    static std::vector<std::vector<char>> stacks(lanes, std::vector<char>(64 * 1024));
    for (unsigned lane = 0; lane < lanes; ++lane) {
        finished[lane] = false;
        getcontext(&fibers[lane]);
        fibers[lane].uc_stack.ss_sp = stacks[lane].data();
        fibers[lane].uc_stack.ss_size = stacks[lane].size();
        makecontext(&fibers[lane], run_lane, 0);
    }
    for (bool any = true; any;) {
        any = false;
        for (unsigned lane = 0; lane < lanes; ++lane) {
            if (finished[lane]) continue;
            any = true;
            threadIdx.x = lane;
            swapcontext(&scheduler, &fibers[lane]);
        }
    }
}

template <class Kernel, class... Args>
void launch(Kernel kernel, unsigned blocks, size_t shared_bytes, Args... args) {
    body = [=] { kernel(args...); };
    for (unsigned block = 0; block < blocks; ++block) {
        blockIdx.x = block;
        // Of the exact size, so that the address sanitizer sees the end; nothing may rely on
        // zeroes.
        shared = std::vector<double>((shared_bytes + sizeof(double) - 1) / sizeof(double), -7e77);
        run_warp();
    }
}

}  // namespace shim

inline void __syncwarp() { shim::yield(); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int step) {
    shim::exchanged[threadIdx.x] = static_cast<double>(value);
    shim::yield();
    const T other = static_cast<T>(shim::exchanged[threadIdx.x ^ step]);
    shim::yield();
    return other;
}

inline bool __all_sync(unsigned, bool holds) {
    shim::exchanged[threadIdx.x] = holds;
    shim::yield();
    bool all = true;
    for (double one : shim::exchanged) all &= one != 0;
    shim::yield();
    return all;
}
