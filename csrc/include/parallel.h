// A loop over independent tasks on the threads of the host's OpenMP runtime.
#pragma once

#include <cstdint>
#include <type_traits>

namespace sdst {

// Runs body(context, begin, end) over disjoint ranges that cover [0, count), on up to `threads`
// threads, the caller's among them; returns when all are done. Ranges hold at least `grain` tasks,
// so work of a single grain never leaves the caller. Who runs which range is not fixed: for a
// result that does not depend on the number of threads, a task must own everything that it writes.
void parallel_for(int64_t count, int64_t grain, int threads,
                  void (*body)(const void* context, int64_t begin, int64_t end),
                  const void* context);

template <class Body>
void parallel_for(int64_t count, int64_t grain, int threads, const Body& body) {
    parallel_for(
        count, grain, threads,
        [](const void* context, int64_t begin, int64_t end) {
            (*static_cast<const Body*>(context))(begin, end);
        },
        &body);
}

}  // namespace sdst
