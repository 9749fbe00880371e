// The native code for 64-bit ARM processors, which all have NEON.
#ifdef __aarch64__
#include <arm_neon.h>

#define WIDTH neon
#define BYTES 16
#define REGISTERS 24

namespace neon {
#include "cpu.h"
#include "elementary.h"
__forceinline__ Vector<float> multiply_add(Vector<float> a, Vector<float> b, Vector<float> c)
{
    return (Vector<float>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
__forceinline__ Vector<double> multiply_add(Vector<double> a, Vector<double> b, Vector<double> c)
{
    return (Vector<double>)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
__forceinline__ float multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
__forceinline__ double multiply_add(double a, double b, double c) { return __builtin_fma(a, b, c); }
#include "width.h"
}  // namespace neon
#endif
