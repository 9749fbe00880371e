// What thresholding and its backward pass do to one entry. The CUDA kernels and the native code for the CPU share this
// file; cpu.h makes it C++ for the latter.
//
// An entry is a real number or, if it is `joint`, several real numbers, such as the two of a complex number. What happens
// to a joint entry depends on its magnitude, the root of the sum of their squares.
#pragma once
#include "number.cuh"

// -- order -----------------------------------------------------------------------------------------------------------

// The bit pattern of |z| as an integer. Non-negative floating-point numbers are in the order of these integers, with
// NaN above infinity, as NumPy sorts it.
__device__ __forceinline__ unsigned key_of(float z) { return __float_as_uint(z) & 0x7fffffffu; }
__device__ __forceinline__ unsigned long long key_of(double z)
{
    return (unsigned long long)__double_as_longlong(z) & 0x7fffffffffffffffull;
}

template <class Real> struct KeyOf;
template <> struct KeyOf<float> { typedef unsigned type; };
template <> struct KeyOf<double> { typedef unsigned long long type; };

// -- thresholding ----------------------------------------------------------------------------------------------------

// The number that is thresholded: z or, one-sided, max(z, 0). It passes on a NaN of z.
template <class Real> __device__ __forceinline__ Real sided(Real z, int one_sided)
{
    return one_sided && z <= 0 ? Real(0) : z;
}

// If no threshold is less than θ, magnitudes up to this one make no difference, because none of them passes or is NEAR.
template <class Real> __device__ __forceinline__ Real idle_below(Real theta, Real window)
{
    // With a window it is a little lower than the window's edge, which is subject to rounding.
    const Real floor = window > 0 ? theta * (1 - window) * Real(0.999) : theta;
    return theta > 0 && floor > 0 ? floor : Real(0);
}

// Its key: a lower cutoff would make no difference either.
template <class Real> __device__ __forceinline__ typename KeyOf<Real>::type lowest_cutoff(Real theta, Real window)
{
    return key_of(idle_below(theta, window));
}

// Thresholds one entry, a single real number: returns x_next for z, and sets its code.
template <class Real>
__device__ __forceinline__ Real shrink(Real z, Real theta, typename KeyOf<Real>::type cut, Real window, int& code)
{
    // Selections instead of branches, because the lanes of a warp would take every side of a branch.
    const Real magnitude = fabs(z), distance = magnitude - theta;
    const bool among_largest = key_of(z) > cut;
    const bool alive = (magnitude > theta) & (z != 0);
    const bool passed = alive & among_largest;
    const bool near = (window > 0) & among_largest & (fabs(distance) < window * theta);
    const int kind = passed ? PASSED : z > 0 ? SHRUNK_UP : SHRUNK_DOWN;
    code = (alive ? kind : OFF) | (near ? NEAR : 0);
    const Real moved = passed ? z : copysign(distance, z);
    return alive ? moved : distance != distance ? distance : Real(0);  // passes on a NaN of z or θ
}

// Thresholds a joint entry of magnitude m: returns the factor by which its numbers are multiplied, and sets its code.
template <class Real>
__device__ __forceinline__ Real shrink_joint(Real m, Real theta, typename KeyOf<Real>::type cut, Real window, int& code)
{
    const Real distance = m - theta;
    const bool among_largest = key_of(m) > cut;
    const bool alive = (m > theta) & (m > 0);
    const bool passed = alive & among_largest;
    const bool near = (window > 0) & among_largest & (fabs(distance) < window * theta);
    code = (alive ? passed ? PASSED : SHRUNK_UP : OFF) | (near ? NEAR : 0);
    const Real factor = passed ? Real(1) : 1 - theta / m;
    return alive ? factor : distance != distance ? distance : Real(0);  // passes on a NaN of m or θ
}

// The backward pass of one entry, a single real number, from δ: returns d_z and adds to ∂L/∂θ. See ReferenceOps.shrink_select_backward.
template <class Real, class Sum>
__device__ __forceinline__ Real shrink_backward(Real delta, int code, Real z, Real theta, Real window, Sum& d_theta)
{
    const int kind = code & KIND;
    Real d_z = kind == OFF ? Real(0) : delta;
    d_theta += ((kind == SHRUNK_DOWN) - (kind == SHRUNK_UP)) * delta;  // without branches, as compilers vectorise it
    if (code & NEAR) {  // the jump from 0 to z, replaced by a ramp of width 2 h θ
        const Real slope = delta / (2 * window * theta);
        d_z += slope * fabs(z);
        d_theta -= Sum(slope) * Sum(z);
    }
    return d_z;
}

// The backward pass of a joint entry of magnitude m, given Re⟨z, δ⟩: d_z = a δ + b z. Sets a and b, and adds to ∂L/∂θ.
// See cuista.ops.joint.shrink_backward.
template <class Real>
__device__ __forceinline__ void shrink_joint_backward(
    Real m, Real product, int code, Real theta, Real window, Real& a, Real& b, Real& d_theta)
{
    const int kind = code & KIND;
    const bool shrunk = kind == SHRUNK_UP, near = code & NEAR;
    const Real positive = m > 0 ? m : Real(1), along = product / positive;
    const Real share = shrunk ? theta / positive : Real(0);
    const Real ramp = near ? product / (2 * window * theta) : Real(0);
    a = (kind == OFF ? Real(0) : Real(1)) - share;
    b = (share * along + ramp) / positive;
    d_theta -= (shrunk ? along : Real(0)) + ramp;
}
