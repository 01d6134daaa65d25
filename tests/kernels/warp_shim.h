// Runs a CUDA kernel on the CPU, block after block: a thread is a fiber that runs until it has to
// wait for its warp or its block, then the next one does. Enough for the sources of csrc/cuda. A
// barrier that not every thread reaches, which would hang a GPU, ends the program with a message.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <utility>
#include <vector>

#define __host__
#define __device__
#define __global__
#define __grid_constant__
#define __shared__ static  // blocks run one after the other; nothing may rely on what is in it
#define __launch_bounds__(...)

struct Index {
    unsigned x;
};
inline Index threadIdx{0}, blockIdx{0};

namespace shim {

constexpr unsigned lanes = 32;

struct Barrier {
    unsigned members, arrived = 0, passed = 0;
};

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(64 * 1024);
    double exchanged;
    const Barrier* waits_at;
    unsigned until_passed;
    bool finished;

    bool runs() const { return !finished && !(waits_at && waits_at->passed < until_passed); }
};

inline std::vector<Fiber> fibers;
inline std::vector<Barrier> warps;
inline Barrier block;
inline std::vector<double> shared;
inline ucontext_t scheduler;
inline std::function<void()> body;

inline Fiber& self() { return fibers[threadIdx.x]; }
inline Fiber& of_warp(unsigned lane) { return fibers[threadIdx.x / lanes * lanes + lane]; }

inline void run_thread() {
    body();
    self().finished = true;
    swapcontext(&self().context, &scheduler);
}

inline void wait(Barrier& barrier) {
    self().waits_at = &barrier;
    self().until_passed = barrier.passed + 1;
    if (++barrier.arrived == barrier.members) {
        barrier.arrived = 0;
        ++barrier.passed;
    }
    swapcontext(&self().context, &scheduler);
}

inline void wait_for_warp() { wait(warps[threadIdx.x / lanes]); }

inline void run_block(unsigned threads) {
    if (fibers.size() < threads) fibers = std::vector<Fiber>(threads);
    warps.assign(threads / lanes, {lanes});
    block = {threads};
    for (unsigned thread = 0; thread < threads; ++thread) {
        Fiber& fiber = fibers[thread];
        fiber.waits_at = nullptr;
        fiber.finished = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        makecontext(&fiber.context, run_thread, 0);
    }
    // Forth and back in turns: what works in one order of the threads alone fails.
    unsigned left = threads;
    for (bool forth = blockIdx.x % 2 == 0; left > 0; forth = !forth) {
        bool any = false;
        for (unsigned i = 0; i < threads; ++i) {
            threadIdx.x = forth ? i : threads - 1 - i;
            if (!self().runs()) continue;
            any = true;
            swapcontext(&scheduler, &self().context);
            left -= self().finished;
        }
        if (any) continue;
        std::fprintf(stderr, "block %u: not every thread reaches a barrier\n", blockIdx.x);
        std::abort();
    }
}

template <class Kernel, class... Args>
void launch(Kernel kernel, unsigned blocks, unsigned threads, size_t shared_bytes, Args... args) {
    body = [=] { kernel(args...); };
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        // Of the exact size, so that the address sanitizer sees the end; nothing may rely on
        // zeroes.
        shared = std::vector<double>((shared_bytes + sizeof(double) - 1) / sizeof(double), -7e77);
        run_block(threads);
    }
}

// A launch with packed arguments: the addresses of the values that the parameters are copied from.
template <class... Parameters, size_t... places>
void launch_packed(void (*kernel)(Parameters...), unsigned blocks, unsigned threads,
                   size_t shared_bytes, void** arguments, std::index_sequence<places...>) {
    launch(kernel, blocks, threads, shared_bytes, *static_cast<Parameters*>(arguments[places])...);
}

template <class... Parameters>
void launch_packed(void (*kernel)(Parameters...), unsigned blocks, unsigned threads,
                   size_t shared_bytes, void** arguments) {
    launch_packed(kernel, blocks, threads, shared_bytes, arguments,
                  std::index_sequence_for<Parameters...>{});
}

// The value that lane `source` of the warp gives.
template <class T>
T exchange(T value, unsigned source) {
    self().exchanged = static_cast<double>(value);
    wait_for_warp();
    const T other = static_cast<T>(of_warp(source).exchanged);
    wait_for_warp();
    return other;
}

}  // namespace shim

inline void __syncwarp() { shim::wait_for_warp(); }
inline void __syncthreads() { shim::wait(shim::block); }

inline int atomicAdd(int* p, int value) {
    const int before = *p;
    *p += value;
    return before;
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int step) {
    return shim::exchange(value, threadIdx.x % shim::lanes ^ step);
}

template <class T>
T __shfl_up_sync(unsigned, T value, int step) {
    const unsigned lane = threadIdx.x % shim::lanes, by = static_cast<unsigned>(step);
    return shim::exchange(value, lane < by ? lane : lane - by);
}

inline bool __all_sync(unsigned, bool holds) {
    shim::self().exchanged = holds;
    shim::wait_for_warp();
    bool all = true;
    for (unsigned lane = 0; lane < shim::lanes; ++lane) all &= shim::of_warp(lane).exchanged != 0;
    shim::wait_for_warp();
    return all;
}

#define SHIM_LAUNCHER(kernel)                                                               \
    extern "C" void launch_##kernel(unsigned blocks, unsigned threads, size_t shared_bytes, \
                                    void** arguments) {                                     \
        shim::launch_packed(sdst::kernel, blocks, threads, shared_bytes, arguments);        \
    }
