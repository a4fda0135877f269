#include "mixed/rows.h"

#include "baseline.h"

const tq_mixed_slots tq_mixed_baseline = {quantize, pack, centroids};
