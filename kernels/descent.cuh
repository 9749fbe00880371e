// Adam's update of one entry. The CUDA kernel and the native code for the CPU share this file. See ReferenceOps.adam.
#pragma once

// Updates the moments of a gradient g, and returns what is to be subtracted from the parameter.
template <class Real> __device__ __forceinline__ Real adam_change(Real g, Real rate, Real& mean, Real& square)
{
    const Real m = mean + Real(1 - BETA1) * (g - mean);
    const Real v = square + Real(1 - BETA2) * (g * g - square);
    mean = m;
    square = v;
    return rate * m / (sqrt(v) + Real(EPSILON));
}
