#include "parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace sdst {
namespace {

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

// Threads start when first wanted and then sleep between jobs. One job runs at a time.
class Pool {
 public:
    // False if another job has the pool.
    bool run(Job& job, int threads) {
        std::unique_lock<std::mutex> owner(busy_, std::try_to_lock);
        if (!owner) return false;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            grow(threads - 1);
            job_ = &job;
            open_ = threads - 1;
        }
        wake_.notify_all();
        job.work();
        std::unique_lock<std::mutex> lock(mutex_);
        job_ = nullptr;  // who has not joined by now finds nothing left to do
        done_.wait(lock, [this] { return active_ == 0; });
        return true;
    }

 private:
    void grow(int wanted) {
        try {
            for (; started_ < wanted; ++started_) std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {
            // No more threads to be had: those that run, at least the caller's, do the work.
        }
    }

    [[noreturn]] void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            wake_.wait(lock, [this] { return job_ != nullptr && open_ > 0; });
            Job& job = *job_;
            --open_;
            ++active_;
            lock.unlock();
            job.work();
            lock.lock();
            if (--active_ == 0) done_.notify_one();
        }
    }

    std::mutex busy_, mutex_;
    std::condition_variable wake_, done_;
    Job* job_ = nullptr;
    int open_ = 0;     // places that the job still has for threads
    int active_ = 0;   // threads in the job
    int started_ = 0;  // threads of the pool
};

// Never destroyed: at exit its threads may still sleep in it. A forked child has none of its
// parent's threads and starts with a pool of its own.
std::atomic<Pool*> current{nullptr};

Pool& pool() {
    static const int registered = pthread_atfork(nullptr, nullptr, [] { current = nullptr; });
    (void)registered;
    Pool* found = current.load();
    if (found == nullptr) {
        Pool* fresh = new Pool;
        if (current.compare_exchange_strong(found, fresh)) return *fresh;
        delete fresh;
    }
    return *found;
}

}  // namespace

void parallel_for(int64_t count, int64_t grain, int threads,
                  void (*body)(const void* context, int64_t begin, int64_t end),
                  const void* context) {
    if (count <= 0) return;
    constexpr int64_t ranges_per_thread = 4;  // evens out threads that start late
    const int64_t even = count / (ranges_per_thread * std::max(threads, 1));
    Job job{body, context, count, std::max({grain, even, int64_t{1}})};
    const int64_t ranges = (count + job.range - 1) / job.range;
    const int wanted = static_cast<int>(std::min<int64_t>(threads, ranges));
    if (wanted <= 1 || !pool().run(job, wanted)) body(context, 0, count);
}

}  // namespace sdst
