// What every library of csrc/ exports: a plain C ABI, loaded with ctypes by kernels/library.py.
#pragma once

#include <cstdint>

// Raised with every change of an exported signature, together with ABI_VERSION in
// kernels/library.py.
#define SDST_ABI_VERSION 9

#define SDST_API extern "C" __attribute__((visibility("default")))

// Marks what kernels of CUDA and of C++ share.
#ifdef __CUDACC__
#define SDST_DEVICE __device__
#else
#define SDST_DEVICE
#endif

SDST_API int32_t sdst_abi_version();
