// What the sources of csrc/ share: the C++ library's plain C ABI, loaded with ctypes by
// kernels/library.py, and the mark of what CUDA kernels use as well.
#pragma once

#include <cstdint>

#ifdef __CUDACC__

#define SDST_DEVICE __device__

#else

#define SDST_DEVICE

// Raised when the signature of an exported function changes, together with ABI_VERSION in
// kernels/library.py.
#define SDST_ABI_VERSION 9

#define SDST_API extern "C" __attribute__((visibility("default")))

SDST_API int32_t sdst_abi_version();

#endif
