// Parameters of non-maximum suppression, on every device.
#pragma once

#include <cstdint>

#include "sdst.h"

namespace sdst {

// In the order of METHODS in kernels/temporal_nms/reference.py.
enum class Method : int64_t { hard, linear, gaussian };

// As Suppression in kernels/temporal_nms/cuda.py.
struct Suppression {
    Method method;
    float threshold, sigma, min_score;
};

// The best span left; index -1 if there is none.
struct Best {
    float score;
    int32_t index;

    // Of equal scores the lower index is better.
    SDST_DEVICE bool better_than(const Best& other) const {
        if (index < 0 || other.index < 0) return other.index < 0 && index >= 0;
        return score > other.score || (score == other.score && index < other.index);
    }
};

}  // namespace sdst
