"""The shim that runs kernels on the CPU: it computes what CUDA defines, and reports what CUDA leaves undefined."""

from __future__ import annotations

import gc
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import shim
from shim import HostLauncher, KernelError

pytestmark = pytest.mark.skipif(bool(shim.why_not()), reason=shim.why_not())

COMMON = r"""
#pragma once
#define KERNEL extern "C" __global__ void
const unsigned FULL = 0xffffffff;

// The lanes that exist in the warp of this thread, the last one of a block included.
__device__ __forceinline__ unsigned lanes() {
    int left = blockDim.x - threadIdx.x / 32 * 32;
    return left >= 32 ? FULL : (1u << left) - 1;
}
template <typename T>
__device__ T warp_sum(T value) {
    unsigned mask = lanes();
    int lane = threadIdx.x % 32;
    for (int distance = 16; distance > 0; distance /= 2) {
        bool inside = lane + distance < 32 && mask >> (lane + distance) & 1;
        T other = __shfl_sync(mask, value, inside ? lane + distance : lane);
        if (inside) value += other;
    }
    return value;
}
"""

WORKS = r"""
#include "common.cuh"
// A comment with extern "C" __global__ void no_kernel(int* x) { is none.
#if __CUDA_ARCH__ < 300
KERNEL not_for_this_architecture(int* x) { not even C++ }
#endif

KERNEL __launch_bounds__(8 * 32) block_sum(const REAL* __restrict__ x, REAL* __restrict__ sums, int n) {
    __shared__ REAL partial[32];
    REAL sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += x[i];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < (blockDim.x + 31) / 32; i++) sum += partial[i];
        sums[blockIdx.x] = sum;
    }
}

template <typename T>
__device__ void shuffles(const T* x, T* out) {
    int i = threadIdx.x, n = blockDim.x;
    out[i] = __shfl_sync(FULL, x[i], 3 * i + 1);  // modulo 32
    out[n + i] = __shfl_xor_sync(FULL, x[i], 5);
    out[2 * n + i] = __shfl_up_sync(FULL, x[i], 3);
    out[3 * n + i] = __shfl_down_sync(FULL, x[i], 30);
}
KERNEL shuffles_float(const float* x, float* out) { shuffles(x, out); }
KERNEL shuffles_double(const double* x, double* out) { shuffles(x, out); }
KERNEL shuffles_int(const int* x, int* out) { shuffles(x, out); }
KERNEL shuffles_unsigned(const unsigned* x, unsigned* out) { shuffles(x, out); }
KERNEL shuffles_longlong(const long long* x, long long* out) { shuffles(x, out); }

KERNEL halves(int* out) {  // two operations of a warp at once
    unsigned half = threadIdx.x % 32 < 16 ? 0xffff : 0xffff0000;
    int value = threadIdx.x;
    for (int i = 0; i < (half & 1 ? 2 : 4); i++) value += __shfl_xor_sync(half, value, 1);
    __syncwarp();  // to which the first half comes while the second has not done
    out[threadIdx.x] = value;
}

KERNEL votes(const int* x, int* out) {
    int i = threadIdx.x, n = blockDim.x, value = x[i];
    unsigned ballot = __ballot_sync(lanes(), value > 0);
    out[i] = __popc(ballot);
    out[n + i] = 100 * __any_sync(lanes(), value == 7) + __all_sync(lanes(), value != 7);
    out[2 * n + i] = __ffs(ballot) - 1;
    out[3 * n + i] = 31 - __clz(ballot);
    out[4 * n + i] = __syncthreads_count(value > 0);
    out[5 * n + i] = 100 * __syncthreads_or(value == 7) + __syncthreads_and(value != 7);
}

KERNEL reverse(const float4* x, float4* out, unsigned* first) {
    SHARED_MEMORY(memory);
    float4* row = reinterpret_cast<float4*>(memory);
    __shared__ unsigned fixed;
    if (threadIdx.x == 0) {
        first[2 * blockIdx.x] = *reinterpret_cast<unsigned*>(memory);
        first[2 * blockIdx.x + 1] = fixed;
    }
    __syncthreads();
    if (threadIdx.x == 0) fixed = 1;
    row[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = row[blockDim.x - 1 - threadIdx.x];
}

KERNEL atomics(unsigned long long* sum, int* least, int* most, unsigned* round, int* once, unsigned* order) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(sum, (unsigned long long)i);
    atomicMin(least, -i);
    atomicMax(most, i);
    atomicInc(round, 9);
    if (atomicCAS(once, 0, 1) == 0) atomicExch(once + 1, 5);
    order[atomicAdd(&order[gridDim.x * blockDim.x], 1u)] = i;
}

KERNEL arithmetic(double* out, int i, unsigned u, float f, double d, long long l, bool b) {
    double values[] = {
        double(i), double(u), f, d, double(l), double(b), double(__umulhi(u, u)), double(__float_as_int(f)),
        double(__double_as_longlong(d)), double(min(i, 3)), max(f, 0.5), rsqrt(4.0), double(__popcll(l)),
        double(__umul64hi(1ull << 63, 6)), double(warpSize), double(blockDim.x), double(gridDim.x)};
    for (int k = 0; k < 17; k++) out[k] = values[k];
}

KERNEL reads(const int* x, int* is_null) { *is_null = x == nullptr; }
"""

FAULTS = r"""
#include "common.cuh"
KERNEL fine(int* x, int n) { x[threadIdx.x] = n; }
KERNEL some_exit(int* x) {
    if (threadIdx.x >= 40) return;
    __syncthreads();
    x[threadIdx.x] = 1;
}
KERNEL two_sites(int* x) {
    if (threadIdx.x < 40)
        __syncthreads();
    else
        __syncthreads();
}
KERNEL named_exit(int* x) {
    if (threadIdx.x == 9) return;
    x[threadIdx.x] = __ballot_sync(FULL, 1);
}
KERNEL named_at_barrier(int* x) {
    if (threadIdx.x == 9) __syncthreads();
    x[threadIdx.x] = __ballot_sync(FULL, 1);
    __syncthreads();
}
KERNEL named_elsewhere(int* x) {
    if (threadIdx.x == 9)
        __syncwarp();
    else
        x[threadIdx.x] = __ballot_sync(FULL, 1);
}
KERNEL other_mask(int* x) { x[threadIdx.x] = __any_sync(threadIdx.x == 9 ? 0xffff : FULL, 1); }
KERNEL circle(int* x) {
    int next = (threadIdx.x + 1) % 3, both = 1 << threadIdx.x | 1 << next;
    x[threadIdx.x] = __any_sync(both, 1);
}
KERNEL not_in_mask(int* x) { x[threadIdx.x] = __any_sync(0xff, 1); }
KERNEL full_mask(int* x) { x[threadIdx.x] = __any_sync(FULL, 1); }
KERNEL reads_inactive(int* x) {
    if (threadIdx.x < 8) x[threadIdx.x] = __shfl_down_sync(0xff, 1, 1);
}
KERNEL shift(const float* x, float* y, int by) { y[threadIdx.x] = x[int(threadIdx.x) + by]; }
KERNEL dynamic(float* y) {
    SHARED_MEMORY(memory);
    reinterpret_cast<float*>(memory)[threadIdx.x] = 1;
}
KERNEL fixed(float* y, int by) {
    __shared__ float row[64];
    float* pointer = row + by;
    pointer[threadIdx.x] = 1;
}
KERNEL misaligned(const float* x, float* y) {
    const float4* pointer = reinterpret_cast<const float4*>(x + 1);
    *y = pointer->x + pointer->w;
}
KERNEL overflow(int* x) { x[threadIdx.x] += 1 << 30; }
KERNEL through_const(const int* x) { const_cast<int*>(x)[2] = 1; }
KERNEL endless(const volatile int* x) {
    while (*x == 0) {
    }
}
KERNEL deep(int* x, int n) {
    volatile char memory[1000];
    memory[n % 1000] = 1;
    if (n) deep(x, n - 1);
    x[0] += memory[n % 1000];
}
"""

RACES = r"""
#include "common.cuh"
KERNEL dynamic(float* out, int barrier) {
    SHARED_MEMORY(memory);
    float* row = reinterpret_cast<float*>(memory);
    row[threadIdx.x] = threadIdx.x;
    if (barrier) __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = row[blockDim.x - 1 - threadIdx.x];
}
KERNEL fixed(float* out, int barrier) {
    __shared__ float row[64];
    row[threadIdx.x] = threadIdx.x;
    if (barrier) __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = row[blockDim.x - 1 - threadIdx.x];
}
KERNEL again(float* out, int barrier) {  // the row is overwritten while others may still read it
    __shared__ float row[64];
    for (int i = 0; i < 3; i++) {
        row[threadIdx.x] = i;
        __syncthreads();
        out[blockIdx.x * blockDim.x + threadIdx.x] = row[blockDim.x - 1 - threadIdx.x];
        if (barrier) __syncthreads();
    }
}
KERNEL within_warp(float* out, int barrier) {
    __shared__ float row[64];
    row[threadIdx.x] = threadIdx.x;
    if (barrier) __syncwarp();
    out[blockIdx.x * blockDim.x + threadIdx.x] = row[threadIdx.x ^ 1];
}
KERNEL between_blocks(float* out, int apart) { out[apart * blockIdx.x * blockDim.x + threadIdx.x] = blockIdx.x; }
KERNEL last_block(float* out, int fence) {  // blocks leave something for the last of them
    unsigned* counter = reinterpret_cast<unsigned*>(out);
    if (threadIdx.x) return;
    out[1 + blockIdx.x] = blockIdx.x;
    if (fence) __threadfence();
    if (atomicInc(counter, gridDim.x - 1) < gridDim.x - 1) return;
    __threadfence();
    float sum = 0;
    for (int i = 0; i < gridDim.x; i++) sum += out[1 + i];
    out[1 + gridDim.x] = sum;
}
"""


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources, in a folder of all processes that test, so that what one of them has compiled serves the others."""
    cache = getattr(request.config, "cache", None)  # pytest has none with -p no:cacheprovider
    path = Path(cache.mkdir("shim") if cache else tmp_path_factory.mktemp("shim"))
    for name, text in {"common.cuh": COMMON, "works.cu": WORKS, "faults.cu": FAULTS, "races.cu": RACES}.items():
        own = path / f"{name}.{os.getpid()}"
        own.write_text(text)
        own.replace(path / name)
    return path


@pytest.fixture(scope="module")
def works(folder: Path) -> Iterator[HostLauncher]:
    launcher = HostLauncher([folder / "works.cu"], "float", folder / "cache")
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def faults(folder: Path) -> Iterator[HostLauncher]:
    launcher = HostLauncher([folder / "faults.cu"], "float", folder / "cache")
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def races(folder: Path) -> Iterator[HostLauncher]:
    if reason := shim.why_not("thread"):
        pytest.skip(reason)
    launcher = HostLauncher([folder / "races.cu"], "float", folder / "cache", sanitize="thread")
    yield launcher
    launcher.close()


@pytest.fixture(params=[0, 1, 7], ids=["ascending", "descending", "shuffled"])
def ordered(request: pytest.FixtureRequest, works: HostLauncher) -> Iterator[HostLauncher]:
    works.order = request.param
    yield works
    works.order = 0


# -- what CUDA defines


@pytest.mark.parametrize("block", [1, 5, 31, 32, 33, 64, 100, 256])
@pytest.mark.parametrize("grid", [1, 3])
def test_a_block_adds_what_its_threads_have(ordered, grid, block):
    x, sums = np.arange(1000, dtype=np.float32), np.empty(grid, np.float32)
    ordered("block_sum", grid, block, [x, sums, np.int32(1000)])
    owner = np.arange(1000) // block % grid
    assert sums.tolist() == [x[owner == b].sum() for b in range(grid)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint32", "int64"])
def test_shuffles_read_the_lane_they_name(ordered, dtype):
    x = np.random.default_rng(0).integers(0, 2**31, 64).astype(dtype)
    out = np.empty((4, 64), dtype)
    names = {"float32": "float", "float64": "double", "int32": "int", "uint32": "unsigned", "int64": "longlong"}
    ordered(f"shuffles_{names[dtype]}", 1, 64, [x, out])
    i = np.arange(64)
    warp, lane = i // 32 * 32, i % 32
    assert (out[0] == x[warp + (3 * i + 1) % 32]).all()
    assert (out[1] == x[warp + (lane ^ 5)]).all()
    assert (out[2] == x[np.where(lane < 3, i, i - 3)]).all()
    assert (out[3] == x[np.where(lane > 1, i, i + 30)]).all()


def test_parts_of_a_warp_go_their_own_way(ordered):
    out = np.empty(64, np.int32)
    ordered("halves", 1, 64, [out])
    pair = np.arange(64) // 2 * 4 + 1  # the sum of two neighbours, which is then doubled
    assert (out == np.where(np.arange(64) % 32 < 16, pair * 2, pair * 8)).all()


def test_votes_count_the_lanes_that_exist(ordered):
    x = np.zeros(70, np.int32)
    x[[3, 17, 40]], x[68] = 1, 7
    out = np.empty((6, 70), np.int32)
    ordered("votes", 1, 70, [x, out])
    warp = np.arange(70) // 32
    assert out[0].tolist() == np.array([2, 1, 1])[warp].tolist()
    assert out[1].tolist() == np.array([1, 1, 100])[warp].tolist()
    assert out[2].tolist() == np.array([3, 8, 4])[warp].tolist()
    assert out[3].tolist() == np.array([17, 8, 4])[warp].tolist()
    assert (out[4] == 4).all()
    assert (out[5] == 100).all()


def test_shared_memory_is_garbage_at_the_start_of_every_block(ordered):
    x = np.random.default_rng(0).random((3, 40, 4), np.float32)
    out, first = np.empty_like(x), np.empty((3, 2), np.uint32)
    ordered("reverse", 3, 40, [x, out, first], shared=40 * 16)
    assert (out == x[:, ::-1]).all()
    assert (first == 0xA5A5A5A5).all()


def test_atomics_are_atomic(ordered):
    sums, least, most, round_ = (
        np.zeros(1, np.uint64),
        np.zeros(1, np.int32),
        np.zeros(1, np.int32),
        np.zeros(1, np.uint32),
    )
    once, order = np.zeros(2, np.int32), np.zeros(151, np.uint32)
    ordered("atomics", 3, 50, [sums, least, most, round_, once, order])
    assert (sums[0], least[0], most[0], round_[0], *once) == (150 * 149 // 2, -149, 149, 0, 1, 5)
    assert order[150] == 150
    assert sorted(order[:150]) == list(range(150))


def test_threads_and_blocks_run_in_the_order_that_is_asked_for(works):
    def order(seed):
        works.order = seed
        ran = np.zeros(151, np.uint32)
        arrays = [np.zeros(2, dtype) for dtype in (np.uint64, np.int32, np.int32, np.uint32, np.int32)]
        works("atomics", 3, 50, [*arrays, ran])
        return ran[:150].tolist()

    assert order(1) == order(0)[::-1] == list(range(149, -1, -1))
    assert order(2) == order(2)
    assert order(2) not in (order(0), order(1), order(3))
    works.order = 0


def test_numbers_arrive_as_they_are(works):
    out = np.empty(17)
    scalars = [
        np.int32(-5),
        np.uint32(2**32 - 1),
        np.float32(0.1),
        np.float64(0.1),
        np.int64(2**40 - 1),
        np.bool_(True),
    ]
    works("arithmetic", 2, 1, [out, *scalars])
    bits = [np.float32(0.1).view(np.int32), np.float64(0.1).view(np.int64)]
    rest = [2**32 - 2, *bits, -5, 0.5, 0.5, 40, 3, 32, 1, 2]
    assert out.tolist() == [float(value) for value in (*scalars, *rest)]


def test_none_is_a_null_pointer(works):
    is_null = np.zeros(1, np.int32)
    works("reads", 1, 1, [None, is_null])
    assert is_null[0] == 1
    works("reads", 1, 1, [np.zeros(0, np.int32), is_null])
    assert is_null[0] == 0


def test_reductions_of_a_warp_need_their_architecture(folder, tmp_path):
    source = tmp_path / "reduce.cu"
    source.write_text(
        'extern "C" __global__ void reduce(const int* x, int* out, unsigned* sum) {\n'
        "    out[0] = __reduce_max_sync(0xffffffff, x[threadIdx.x]);\n"
        "    out[1] = __reduce_min_sync(0xffffffff, x[threadIdx.x]);\n"
        "    out[2] = __reduce_add_sync(0xffffffff, x[threadIdx.x]);\n"
        "    *sum = __reduce_max_sync(0xffffffff, (unsigned)x[threadIdx.x]);\n}\n"
    )
    x, out, most = np.arange(-20, 12, dtype=np.int32), np.empty(3, np.int32), np.empty(1, np.uint32)
    with pytest.raises(KernelError, match="__reduce_max_sync"):
        HostLauncher([source], "float", folder / "cache", sanitize="")("reduce", 1, 32, [x, out, most])
    HostLauncher([source], "float", folder / "cache", sanitize="", arch=900)("reduce", 1, 32, [x, out, most])
    assert [*out, *most] == [11, -20, x.sum(), 2**32 - 1]


# -- what it leaves undefined

INTS, FLOATS = np.int32, np.float32
NO_LINES = "symbolizer"  # without its symbolizer, clang's reports have no lines, and say so


@pytest.mark.parametrize("order", [0, 1, 7])
@pytest.mark.parametrize(
    ("kernel", "block", "message"),
    [
        ("some_exit", 64, "divergent __syncthreads.*faults.cu:6"),
        ("two_sites", 64, "divergent __syncthreads.*faults.cu:1[13].*faults.cu:1[13]"),
        ("named_exit", 32, "inactive lane.*__ballot_sync"),
        ("named_at_barrier", 32, "inactive lane.*(__syncthreads.*__ballot_sync|__ballot_sync.*__syncthreads)"),
        ("named_elsewhere", 32, "inactive lane.*(__syncwarp.*__ballot_sync|__ballot_sync.*__syncwarp)"),
        ("other_mask", 32, "inactive lane.*0x0000ffff"),
        (
            "not_in_mask",
            32,
            "inactive lane: lane .* calls __any_sync with mask 0x000000ff at .*, which does not name it",
        ),
        ("full_mask", 20, "inactive lane.*lane 20, which does not exist in a block of 20 threads"),
        ("reads_inactive", 32, "inactive lane: lane 7 reads lane 8"),
    ],
)
def test_threads_that_do_not_come_are_missed(faults, kernel, block, message, order):
    faults.order = order
    with pytest.raises(KernelError, match=rf"kernel {kernel}, block 0, thread \d+: {message}"):
        faults(kernel, 1, block, [np.zeros(64, INTS)])
    faults.order = 0


@pytest.mark.parametrize(
    ("kernel", "arguments", "shared", "message"),
    [
        (
            "shift",
            [np.zeros(64, FLOATS), np.zeros(64, FLOATS), np.int32(1)],
            0,
            "0 bytes after the end of argument 0 .x.",
        ),
        ("shift", [np.zeros(64, FLOATS), np.zeros(64, FLOATS), np.int32(-1)], 0, "4 bytes before .* argument 0 .x."),
        (
            "shift",
            [np.zeros(64, FLOATS), np.zeros(63, FLOATS), np.int32(0)],
            0,
            "0 bytes after the end of argument 1 .y.",
        ),
        (
            "shift",
            [np.zeros(0, FLOATS), np.zeros(64, FLOATS), np.int32(0)],
            0,
            "after the end of argument 0 .x., of 0 bytes",
        ),
        ("dynamic", [None], 63 * 4, "0 bytes after the end of the dynamic shared memory, of 252 bytes"),
        ("dynamic", [None], 0, "0 bytes after the end of the dynamic shared memory"),
        ("fixed", [None, np.int32(1)], 0, "insufficient space|global variable"),
        ("misaligned", [np.zeros(8, FLOATS), np.zeros(1, FLOATS)], 0, "misaligned address"),
        ("overflow", [np.full(64, 2**30, INTS)], 0, "signed integer overflow"),
        ("through_const", [np.zeros(64, INTS)], 0, r"writes to argument 0 \(x\), a pointer to const: byte 8"),
        ("fine", [None, np.int32(1)], 0, "null pointer"),
        ("deep", [np.zeros(1, INTS), np.int32(100_000)], 0, "stack-overflow"),
    ],
)
def test_a_fault_is_an_error_that_says_where(faults, kernel, arguments, shared, message):
    with pytest.raises(KernelError, match=rf"^kernel {kernel}\b") as error:
        faults(kernel, 1, 64, arguments, shared)
    assert re.search(message, str(error.value)), error.value
    assert kernel == "through_const" or "faults.cu:" in str(error.value) or NO_LINES in str(error.value)
    x = np.zeros(64, INTS)
    faults("fine", 1, 64, [x, np.int32(5)])
    assert (x == 5).all()


def test_what_just_fits_is_no_fault(faults):
    x, y = np.arange(64, dtype=FLOATS), np.zeros(64, FLOATS)
    faults("shift", 1, 63, [x, y, np.int32(1)])
    assert y[:63].tolist() == x[1:].tolist()
    faults("dynamic", 1, 64, [None], shared=64 * 4)
    faults("fixed", 1, 63, [None, np.int32(1)])
    faults("deep", 1, 64, [np.zeros(1, INTS), np.int32(20)])


def test_an_endless_loop_ends(faults):
    faults("fine", 1, 1, [np.zeros(1, INTS), np.int32(1)])
    threading.Timer(0.3, os.kill, [faults._process.pid, signal.SIGALRM]).start()  # sooner than the worker's own alarm
    with pytest.raises(KernelError, match="kernel endless, block 0, thread 0 still runs"):
        faults("endless", 1, 1, [np.zeros(1, INTS)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([np.zeros(64, INTS)], r"takes 2 arguments \(x, n\), not 1"),
        ([np.zeros(64, INTS), 3], r"argument 1 \(n\): int for a scalar .* numpy.int32\(3\)"),
        ([np.zeros(64, INTS), np.int64(3)], "int64 for a scalar of integers of 4 bytes"),
        ([np.zeros(64, INTS), np.float32(3)], "float32 for a scalar of integers of 4 bytes"),
        ([np.zeros(64, FLOATS), np.int32(3)], r"argument 0 \(x\): float32 for an array of integers of 4 bytes"),
        ([np.zeros(64, np.int64), np.int32(3)], "int64 for an array of integers of 4 bytes"),
        ([np.zeros(128, INTS)[::2], np.int32(3)], "not C-contiguous"),
        ([np.broadcast_to(INTS(0), 1), np.int32(3)], "read-only"),
        ([np.int32(3), np.int32(3)], "int32 for an array"),
        ([[1, 2], np.int32(3)], "list for an array"),
        ([np.zeros(64, INTS), None], "None for a scalar"),
    ],
)
def test_arguments_must_fit_the_parameters(faults, arguments, message):
    with pytest.raises(KernelError, match=f"^kernel fine.*{message}"):
        faults("fine", 1, 32, arguments)


def test_arrays_must_be_apart_if_one_is_written(faults):
    x = np.zeros(64, FLOATS)
    with pytest.raises(KernelError, match="x and y share memory"):
        faults("shift", 1, 1, [x, x, np.int32(0)])
    faults("shift", 1, 1, [x[:8], x[8:], np.int32(0)])


def test_a_vector_parameter_takes_whole_vectors(works):
    with pytest.raises(KernelError, match="56 bytes are no multiple of 16"):
        works("reverse", 1, 1, [np.zeros(14, FLOATS), np.zeros(16, FLOATS), np.zeros(2, np.uint32)], shared=16)


def test_launches_must_be_possible(works, faults):
    with pytest.raises(
        KernelError, match="block_sum: 1 blocks of 257 threads, and its __launch_bounds__ allows 1 to 256"
    ):
        works("block_sum", 1, 257, [np.zeros(1, FLOATS), np.zeros(1, FLOATS), np.int32(1)])
    with pytest.raises(KernelError, match="fine: 1 blocks of 1025 threads, and CUDA allows 1 to 1024"):
        faults("fine", 1, 1025, [np.zeros(1, INTS), np.int32(1)])
    with pytest.raises(KernelError, match="0 blocks"):
        faults("fine", 0, 1, [np.zeros(1, INTS), np.int32(1)])
    with pytest.raises(KernelError, match="no kernel gone: there are circle, deep, "):
        faults("gone", 1, 1, [])


@pytest.mark.parametrize("real", ["float", "double"])
def test_no_float_is_added_atomically(folder, tmp_path, real):
    source = tmp_path / "sum.cu"
    source.write_text('extern "C" __global__ void sum(REAL* x) { atomicAdd(x, REAL(1)); }')
    with pytest.raises(KernelError, match=r"sum.cu cannot be compiled(.|\n)*deleted function"):
        HostLauncher([source], real, folder / "cache")("sum", 1, 1, [np.zeros(1, real)])


# -- races


@pytest.mark.parametrize("kernel", ["dynamic", "fixed", "again", "within_warp"])
@pytest.mark.parametrize("order", [0, 1, 7])
def test_a_missing_barrier_is_a_race(races, kernel, order):
    races.order = order
    races(kernel, 3, 64, [np.zeros(192, FLOATS), np.int32(1)], shared=256)
    with pytest.raises(KernelError, match=r"data race(.|\n)*'block 0, thread \d+'") as error:
        races(kernel, 1, 64, [np.zeros(192, FLOATS), np.int32(0)], shared=256)
    assert str(error.value).startswith(f"kernel {kernel}:")
    assert re.search(rf"races.cu:\d+ in {kernel}", str(error.value)) or NO_LINES in str(error.value)
    races.order = 0


def test_two_blocks_that_write_the_same_are_a_race(races):
    races("between_blocks", 3, 33, [np.zeros(192, FLOATS), np.int32(1)])
    races("between_blocks", 1, 33, [np.zeros(192, FLOATS), np.int32(0)])
    with pytest.raises(KernelError, match="data race"):
        races("between_blocks", 2, 33, [np.zeros(192, FLOATS), np.int32(0)])


def test_a_fence_orders_what_blocks_leave_for_one_another(races):
    out = np.zeros(7, FLOATS)
    races("last_block", 5, 2, [out, np.int32(1)])
    assert out[6] == 10
    with pytest.raises(KernelError, match="data race"):
        races("last_block", 5, 2, [np.zeros(7, FLOATS), np.int32(0)])


def test_a_missing_barrier_shows_in_the_order_of_threads(folder):
    launcher = HostLauncher([folder / "races.cu"], "float", folder / "cache", sanitize="")
    results = {}
    for barrier in (0, 1):
        for launcher.order in (0, 1, 7):
            out = np.zeros(64, FLOATS)
            launcher("fixed", 1, 64, [out, np.int32(barrier)])
            results[barrier, launcher.order] = out.tolist()
    assert results[1, 0] == results[1, 1] == results[1, 7]
    assert results[0, 0] != results[0, 1]


# -- the worker


def test_what_was_compiled_once_is_not_compiled_again(folder, works, monkeypatch):
    x = [np.zeros(1, FLOATS), np.zeros(1, FLOATS), np.int32(1)]
    works("block_sum", 1, 1, x)
    compiled = []
    monkeypatch.setattr(HostLauncher, "_compile", lambda *arguments: compiled.append(arguments) or "")
    HostLauncher([folder / "works.cu"], "float", folder / "cache")("block_sum", 1, 1, x)
    assert not compiled
    with pytest.raises(KernelError):
        HostLauncher([folder / "works.cu"], "double", folder / "cache")("block_sum", 1, 1, x)
    assert compiled


def test_the_worker_ends_with_its_launcher(folder, works):
    works("reads", 1, 1, [None, np.zeros(1, np.int32)])
    launcher = HostLauncher([folder / "works.cu"], "float", folder / "cache")
    launcher("reads", 1, 1, [None, np.zeros(1, np.int32)])
    process = launcher._process
    assert process.poll() is None
    del launcher
    gc.collect()
    assert process.poll() is not None


def test_a_launcher_that_was_closed_starts_again(works):
    works.close()
    works.close()
    test_none_is_a_null_pointer(works)


def test_large_arrays_come_back(works):
    x, out = np.ones((1 << 16, 32, 4), FLOATS), np.zeros((1 << 16, 32, 4), FLOATS)  # 32 MiB each
    first = np.empty((1 << 16, 2), np.uint32)
    works("reverse", 2, 32, [x, out, first], shared=512)
    assert out.sum() == out[:2].sum() == 2 * 32 * 4


def test_without_a_compiler_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shim, "compiler", lambda: None)
    (tmp_path / "fine.cu").write_text('extern "C" __global__ void fine(int* x) {}')
    shim.why_not.cache_clear()
    with pytest.raises(KernelError, match="no C\\+\\+ compiler"):
        HostLauncher([tmp_path / "fine.cu"], "float", tmp_path)("fine", 1, 1, [None])
    shim.why_not.cache_clear()
