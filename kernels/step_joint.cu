// Kernel 4 for complex and joint entries: see step.cuh. Complex numbers take twice the registers, so fewer blocks fit.
#include "step.cuh"

ALISTA_STEP(alista_step_joint, real, false, sizeof(real) == 4 ? 3 : 2)
ALISTA_STEP(alista_step_complex_joint, Complex<real>, false, sizeof(real) == 4 ? 2 : 1)
