// Kernel 4 for single real numbers: see step.cuh.
#include "step.cuh"

// How many blocks share a multiprocessor. With three, compute capability 12 would have too few registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
#define TOGETHER 2
#else
#define TOGETHER 3
#endif

ALISTA_STEP(alista_step, real, true, sizeof(real) == 4 ? TOGETHER : 2)
