// What the kernels that give a warp to every problem share.
#pragma once

namespace sdst {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

}  // namespace sdst
