// Runs CUDA kernels on the CPU: one block after the other, each thread of a block a fiber. A fiber runs until it ends
// or meets a barrier; shuffles and votes are an exchange array around a barrier of the warp. What it shows is the logic
// of a kernel: indices, barriers, arithmetic. A race shows only where running threads from the last to the first gives
// another result; speed does not show at all.

#pragma once
#define TQ_SHIM 1  // headers of kernels ask for it

#include "barriers.h"
#include "fibers.h"
#include "intrinsics.h"
#include "language.h"
#include "launch.h"
#include "matrices.h"
#include "switch.h"
