// Kernel 4 for single real numbers: see step.cuh.
#include "step.cuh"

ALISTA_STEP(alista_step, real, true, sizeof(real) == 4 ? 3 : 2)
