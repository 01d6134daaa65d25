#include "sdst.h"

int32_t sdst_abi_version() { return SDST_ABI_VERSION; }
