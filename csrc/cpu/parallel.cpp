#include "parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>

#include "sdst.h"

namespace sdst {
namespace {

// GOMP_parallel of an OpenMP runtime: runs task(context) in every one of `threads` threads.
using Team = void (*)(void (*task)(void*), void* context, unsigned threads, unsigned flags);

std::atomic<Team> team{nullptr};

struct Job {
    void (*body)(const void*, int64_t, int64_t);
    const void* context;
    int64_t count, range;
    std::atomic<int64_t> next{0};

    void work() {
        for (;;) {
            const int64_t begin = next.fetch_add(range, std::memory_order_relaxed);
            if (begin >= count) return;
            body(context, begin, std::min(begin + range, count));
        }
    }
};

}  // namespace

void parallel_for(int64_t count, int64_t grain, int threads,
                  void (*body)(const void* context, int64_t begin, int64_t end),
                  const void* context) {
    if (count <= 0) return;
    constexpr int64_t ranges_per_thread = 4;  // evens out threads that start late
    const int64_t even = count / (ranges_per_thread * std::max(threads, 1));
    Job job{body, context, count, std::max({grain, even, int64_t{1}})};
    const int64_t ranges = (count + job.range - 1) / job.range;
    const int64_t needed = std::min<int64_t>(threads, ranges);
    const Team parallel = team.load();
    if (needed <= 1 || parallel == nullptr) return body(context, 0, count);
    parallel([](void* shared) { static_cast<Job*>(shared)->work(); }, &job,
             static_cast<unsigned>(needed), 0);
}

}  // namespace sdst

// Work is done in the threads of the OpenMP runtime that `gomp_parallel` belongs to, the host's
// own: they are awake when a call comes, and no second pool fights them for the cores. Without one,
// and in a forked child, which has none of its parent's threads, the caller works alone.
SDST_API void sdst_use_openmp(void* gomp_parallel) {
    static const int registered = pthread_atfork(nullptr, nullptr, [] { sdst::team = nullptr; });
    (void)registered;
    sdst::team = reinterpret_cast<sdst::Team>(gomp_parallel);
}
