// What CUDA C++ needs to be compiled as C++ and run on the CPU. The launcher includes it before the kernels.
//
// One block runs at a time, and its threads are fibers, so shared memory is plain static memory.
// What is missing here is not meant to be used by kernels, or is not needed yet.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <type_traits>
#include <utility>

// These words stay while the launcher preprocesses the sources to find the kernels in them.
#ifndef SHIM_FIND_KERNELS
#define __global__
#define __launch_bounds__(...)
#endif

#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))

// Each shared variable is in its own section, "cuda.shared.N", so that the worker can find it and fill it with garbage.
// (They cannot share a section, which cannot hold variables of both inline and ordinary functions.)
#ifdef __ELF__
#define SHIM_TEXT_(x) #x
#define SHIM_TEXT(x) SHIM_TEXT_(x)
#define __shared__ static __attribute__((used, section("cuda.shared." SHIM_TEXT(__COUNTER__))))
#else
#define __shared__ static __attribute__((used))
#endif

// The launch's dynamic shared memory, aligned to 16 bytes.
#define SHARED_MEMORY(name) unsigned char* const name = shim::dynamic_shared

// ---- vector types

#define SHIM_VECTOR2(type, name, alignment) \
    struct alignas(alignment) name { type x, y; }; \
    inline name make_##name(type x, type y) { return {x, y}; }
#define SHIM_VECTOR4(type, name, alignment) \
    struct alignas(alignment) name { type x, y, z, w; }; \
    inline name make_##name(type x, type y, type z, type w) { return {x, y, z, w}; }
SHIM_VECTOR2(float, float2, 8)
SHIM_VECTOR4(float, float4, 16)
SHIM_VECTOR2(double, double2, 16)
SHIM_VECTOR4(double, double4, 16)
SHIM_VECTOR2(int, int2, 8)
SHIM_VECTOR4(int, int4, 16)
SHIM_VECTOR2(unsigned, uint2, 8)
SHIM_VECTOR4(unsigned, uint4, 16)
SHIM_VECTOR4(unsigned char, uchar4, 4)
SHIM_VECTOR4(signed char, char4, 4)

struct uint3 {
    unsigned x, y, z;
};

// ---- what the worker provides

namespace shim {

// These belong to the running thread. The worker sets thread_index at every switch, and the others when they change.
extern uint3 thread_index, block_index, block_size, grid_size;
extern unsigned char* dynamic_shared;

struct Site {
    const char* file;
    int line;
};

// In the order of OPERATIONS in worker.cpp.
enum Operation {
    SYNC, SHUFFLE, SHUFFLE_XOR, SHUFFLE_UP, SHUFFLE_DOWN, BALLOT, ANY, ALL, ADD, MAX, MIN, MAX_INT, MIN_INT
};
enum Barrier { PLAIN, COUNT, AND, OR };

int barrier(Barrier kind, bool predicate, Site site);
// Returns the calling lane's result once all lanes of the mask have called with the same operation, mask and site.
uint64_t warp(Operation operation, unsigned mask, uint64_t value, unsigned parameter, Site site);
void fence();
[[noreturn]] void wrong_width(int width, Site site);

// ---- kernels, for the file that the launcher generates

// What a parameter takes: its kind (f: float, i: integer, V: struct, v: void) and sizes in bytes.
struct Parameter {
    bool pointer, constant;
    char kind;
    int item, size;  // for float4: 4 and 16
};

template <typename T>
constexpr Parameter parameter() {
    if constexpr (std::is_pointer_v<T>) {
        using Target = std::remove_pointer_t<T>;
        static_assert(!std::is_pointer_v<Target>, "a kernel cannot take a pointer to pointers");
        Parameter target = parameter<std::remove_cv_t<Target>>();
        return {true, std::is_const_v<Target>, target.kind, target.item, target.size};
    } else if constexpr (std::is_void_v<T>) {
        return {false, false, 'v', 1, 1};
    } else if constexpr (std::is_floating_point_v<T>) {
        return {false, false, 'f', sizeof(T), sizeof(T)};
    } else if constexpr (std::is_integral_v<T>) {
        return {false, false, 'i', sizeof(T), sizeof(T)};
    } else {
        static_assert(std::is_trivially_copyable_v<T>, "a kernel takes numbers, pointers and plain structs");
        return {false, false, 'V', sizeof(T), sizeof(T)};
    }
}

#define SHIM_ITEMS(vector, letter, type) \
    template <> \
    constexpr Parameter parameter<vector>() { \
        return {false, false, letter, sizeof(type), sizeof(vector)}; \
    }
SHIM_ITEMS(float2, 'f', float)
SHIM_ITEMS(float4, 'f', float)
SHIM_ITEMS(double2, 'f', double)
SHIM_ITEMS(double4, 'f', double)
SHIM_ITEMS(int2, 'i', int)
SHIM_ITEMS(int4, 'i', int)
SHIM_ITEMS(uint2, 'i', unsigned)
SHIM_ITEMS(uint4, 'i', unsigned)
SHIM_ITEMS(uchar4, 'i', char)
SHIM_ITEMS(char4, 'i', char)

// The first argument of __launch_bounds__.
constexpr long first(long threads, long = 0, long = 0) { return threads; }

struct Kernel {
    const char *name, *parameters_text;
    long bound;  // on the threads in a block; 0 for none
    const Parameter* parameters;
    int count;
    void (*call)(void** values);
    Kernel* next;

    Kernel(const char* name, const char* text, long bound, const Parameter* parameters, int count, void (*)(void**));
};

template <auto function>
struct Call;

template <typename... P, void (*function)(P...)>
struct Call<function> {
    static constexpr Parameter parameters[sizeof...(P) + 1] = {parameter<P>()..., {}};

    template <size_t... I>
    static void unpack([[maybe_unused]] void** values, std::index_sequence<I...>) {
        function(*static_cast<P*>(values[I])...);
    }
    static void call(void** values) { unpack(values, std::index_sequence_for<P...>()); }
    static Kernel kernel(const char* name, const char* text, long bound) {
        return {name, text, bound, parameters, sizeof...(P), call};
    }
};

}  // namespace shim

// References, not constants, because their values change.
static const uint3 &threadIdx = shim::thread_index, &blockIdx = shim::block_index;
static const uint3 &blockDim = shim::block_size, &gridDim = shim::grid_size;
constexpr int warpSize = 32;

// ---- barriers and warp operations; the last two parameters tell where the call is

#define SHIM_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(SHIM_HERE) { shim::barrier(shim::PLAIN, false, {file, line}); }
inline int __syncthreads_count(int predicate, SHIM_HERE) { return shim::barrier(shim::COUNT, predicate, {file, line}); }
inline int __syncthreads_and(int predicate, SHIM_HERE) { return shim::barrier(shim::AND, predicate, {file, line}); }
inline int __syncthreads_or(int predicate, SHIM_HERE) { return shim::barrier(shim::OR, predicate, {file, line}); }

inline void __syncwarp(unsigned mask = 0xffffffff, SHIM_HERE) { shim::warp(shim::SYNC, mask, 0, 0, {file, line}); }

namespace shim {
// Punning through a union, which gcc and clang allow, leaves no address for a sanitizer to check. Most of the time is
// spent here.
template <typename To, typename From>
__forceinline__ To bits(From value) {
    static_assert(std::is_arithmetic_v<To> && std::is_arithmetic_v<From>);
    union {
        uint64_t all;
        From from;
        To to;
    } both{0};
    both.from = value;
    return both.to;
}

template <typename T>
__forceinline__ T shuffle(Operation operation, unsigned mask, T value, unsigned parameter, int width, Site site) {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "shuffles take 4 or 8 bytes");
    if (width != 32) wrong_width(width, site);
    return bits<T>(warp(operation, mask, bits<uint64_t>(value), parameter, site));
}
}  // namespace shim

template <typename T>
__forceinline__ T __shfl_sync(unsigned mask, T value, int lane, int width = 32, SHIM_HERE) {
    return shim::shuffle(shim::SHUFFLE, mask, value, lane, width, {file, line});
}
template <typename T>
__forceinline__ T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, SHIM_HERE) {
    return shim::shuffle(shim::SHUFFLE_XOR, mask, value, lanes, width, {file, line});
}
template <typename T>
__forceinline__ T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SHIM_HERE) {
    return shim::shuffle(shim::SHUFFLE_UP, mask, value, delta, width, {file, line});
}
template <typename T>
__forceinline__ T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SHIM_HERE) {
    return shim::shuffle(shim::SHUFFLE_DOWN, mask, value, delta, width, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, SHIM_HERE) {
    return shim::warp(shim::BALLOT, mask, predicate != 0, 0, {file, line});
}
inline int __any_sync(unsigned mask, int predicate, SHIM_HERE) {
    return shim::warp(shim::ANY, mask, predicate != 0, 0, {file, line});
}
inline int __all_sync(unsigned mask, int predicate, SHIM_HERE) {
    return shim::warp(shim::ALL, mask, predicate != 0, 0, {file, line});
}

#if __CUDA_ARCH__ >= 800
inline unsigned __reduce_add_sync(unsigned mask, unsigned value, SHIM_HERE) {
    return shim::warp(shim::ADD, mask, value, 0, {file, line});
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value, SHIM_HERE) {
    return shim::warp(shim::MAX, mask, value, 0, {file, line});
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value, SHIM_HERE) {
    return shim::warp(shim::MIN, mask, value, 0, {file, line});
}
inline int __reduce_add_sync(unsigned mask, int value, SHIM_HERE) {
    return shim::warp(shim::ADD, mask, unsigned(value), 0, {file, line});
}
inline int __reduce_max_sync(unsigned mask, int value, SHIM_HERE) {
    return shim::warp(shim::MAX_INT, mask, unsigned(value), 0, {file, line});
}
inline int __reduce_min_sync(unsigned mask, int value, SHIM_HERE) {
    return shim::warp(shim::MIN_INT, mask, unsigned(value), 0, {file, line});
}
#endif

inline void __threadfence() { shim::fence(); }
inline void __threadfence_block() { shim::fence(); }

// ---- atomics; relaxed, as on the device

namespace shim {
// No other thread can interfere, because fibers switch only at barriers and warp operations.
template <typename T, typename F>
T atomically(T* address, F function) {
    T old = __atomic_load_n(address, __ATOMIC_RELAXED);
    __atomic_store_n(address, function(old), __ATOMIC_RELAXED);
    return old;
}
}  // namespace shim

#define SHIM_ATOMICS(T) \
    inline T atomicAdd(T* address, T value) { return __atomic_fetch_add(address, value, __ATOMIC_RELAXED); } \
    inline T atomicExch(T* address, T value) { return __atomic_exchange_n(address, value, __ATOMIC_RELAXED); } \
    inline T atomicMax(T* address, T value) { \
        return shim::atomically(address, [=](T old) { return old > value ? old : value; }); \
    } \
    inline T atomicMin(T* address, T value) { \
        return shim::atomically(address, [=](T old) { return old < value ? old : value; }); \
    } \
    inline T atomicCAS(T* address, T expected, T value) { \
        return shim::atomically(address, [=](T old) { return old == expected ? value : old; }); \
    }
SHIM_ATOMICS(int)
SHIM_ATOMICS(unsigned)
SHIM_ATOMICS(unsigned long long)
inline unsigned atomicInc(unsigned* address, unsigned limit) {
    return shim::atomically(address, [=](unsigned old) { return old >= limit ? 0 : old + 1; });
}
// The sum would depend on the order of the threads.
float atomicAdd(float*, float) = delete;
double atomicAdd(double*, double) = delete;

// ---- arithmetic

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t(a) * b) >> 32; }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned __int128>(a) * b >> 64;
}

inline unsigned __float_as_uint(float x) { return shim::bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return shim::bits<float>(x); }
inline int __float_as_int(float x) { return shim::bits<int>(x); }
inline float __int_as_float(int x) { return shim::bits<float>(x); }
inline long long __double_as_longlong(double x) { return shim::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return shim::bits<double>(x); }

template <typename T>
T __ldg(const T* address) {
    return *address;
}

inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / ::sqrt(x); }
inline double cospi(double x) { return ::cos(3.14159265358979323846 * x); }
inline float cospi(float x) { return static_cast<float>(cospi(static_cast<double>(x))); }
inline double sinpi(double x) { return ::sin(3.14159265358979323846 * x); }
inline float sinpi(float x) { return static_cast<float>(sinpi(static_cast<double>(x))); }

// As in CUDA, numbers of two types are converted to their common type; floats use fmin and fmax, which ignore NaN.
namespace shim {
template <typename A, typename B>
using Common = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, std::common_type_t<A, B>>;
}
template <typename A, typename B>
shim::Common<A, B> min(A a, B b) {
    using T = shim::Common<A, B>;
    if constexpr (std::is_floating_point_v<T>) return ::fmin(T(a), T(b));
    return T(b) < T(a) ? T(b) : T(a);
}
template <typename A, typename B>
shim::Common<A, B> max(A a, B b) {
    using T = shim::Common<A, B>;
    if constexpr (std::is_floating_point_v<T>) return ::fmax(T(a), T(b));
    return T(a) < T(b) ? T(b) : T(a);
}
