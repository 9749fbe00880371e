// The native code for any processor. A processor that has no fused multiply-add would emulate it slowly.

#define WIDTH plain
#define BYTES 16
#define REGISTERS 12

namespace plain {
#include "cpu.h"
#include "elementary.h"
template <class T> __forceinline__ T multiply_add(T a, T b, T c) { return a * b + c; }
#include "width.h"
}  // namespace plain
