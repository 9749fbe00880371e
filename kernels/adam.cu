// The update of the parameters on the device, so that no number goes to the host between steps.
#include "common.cuh"
#include "descent.cuh"

// Updates the running mean of the loss per sample (0 before the first), and computes the scale of relative descent,
// 1/(B √(L·L̄)). Runs in one thread. See ReferenceOps.track_loss.
KERNEL track_loss(const double* __restrict__ loss, int batch, double* __restrict__ mean_loss, double* __restrict__ scale)
{
    const double per_sample = *loss / batch;
    const double mean = *mean_loss == 0 ? per_sample : 0.99 * *mean_loss + 0.01 * per_sample;
    const double product = per_sample * mean;
    *mean_loss = mean;
    *scale = 1 / (batch * sqrt(product > 2.2250738585072014e-308 ? product : 2.2250738585072014e-308));
}

// Adam on one array of parameters, which stacks layers of `per_layer` entries. One thread per entry. See
// ReferenceOps.adam.
KERNEL __launch_bounds__(128, 1) adam(
    real* __restrict__ parameter, const real* __restrict__ gradient, real* __restrict__ mean,
    real* __restrict__ square, double rate, const double* __restrict__ factors, const double* __restrict__ scale,
    int logarithmic, long long size, int per_layer)
{
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) return;
    real g = gradient[i] * real(*scale * factors[i / per_layer]);
    if (logarithmic) g *= parameter[i];
    const real change = adam_change(g, real(rate), mean[i], square[i]);
    parameter[i] = logarithmic ? parameter[i] * exp(-change) : parameter[i] - change;
}
