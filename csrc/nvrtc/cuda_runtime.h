// NVRTC knows the runtime's device side by itself.
#pragma once
