"""The native library: long rows, threads, and the sanitizers. test_ops.py compares it with the definition."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import shim
from conftest import on_fast_engines
from cuista.kernels import native
from cuista.kernels.constants import DEFINITIONS

import cuista
from cuista import parallel
from cuista.ops import ReferenceOps


@on_fast_engines
@pytest.mark.parametrize("size", [1, 2, 255, 1000, 10_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_any_length_are_those_of_the_definition(fast, size, dtype, rng):
    x = rng.standard_normal((3, size)).astype(dtype)
    x[1] = np.round(x[1], 1)  # with ties
    x[2] *= np.finfo(dtype).smallest_normal  # with denormals
    u, theta = np.round(rng.standard_normal(x.shape), 2).astype(dtype) * np.abs(x).max(axis=1, keepdims=True), x[:, :1]
    for k in (0, 1, size // 10, size - 1, size + 3):
        for threshold in (0.3, np.abs(theta), rng.uniform(0, 1, size)):
            step = (x, u, 0.7, threshold, k, 0.2)
            for found, expected in zip(fast.shrink_select(*step), ReferenceOps().shrink_select(*step), strict=True):
                np.testing.assert_array_equal(found, expected)


@on_fast_engines
def test_recovery_has_the_same_bits_on_any_number_of_threads(fast, small_problem, small_weight, monkeypatch):
    model = cuista.Model.new(small_problem, small_weight, layers=4, ops=fast)
    _, y = small_problem.sample(1000)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(parallel, "processors", lambda threads=threads: threads)
        found.append(model.recover(y))
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_several_layers_may_not_pass_on_what_is_not_a_number(small_model):
    y = np.zeros((1, small_model.problem.M))
    y[0, 3] = np.nan
    assert np.isnan(small_model.network.output(y)).any()


CHECK = """
import sys
from pathlib import Path
import numpy as np
from cuista.kernels.native import Library
from cuista.ops import NativeOps, ReferenceOps

path, reference, rng = Path(sys.argv[1]), ReferenceOps(), np.random.default_rng(0)
for width in Library(path).widths:
    ops = NativeOps(Library(path, width))
    for size in (*range(1, 40), 63, 64, 65, 200, 1000):
        for dtype in (np.float32, np.float64):
            x, u, delta = rng.standard_normal((3, 35, size)).astype(dtype)
            x *= rng.random(x.shape) < 0.2
            for threshold in (0.3, rng.uniform(0, 1, size), rng.uniform(0, 1, (35, 1))):
                step = (x, u, 0.7, threshold, size // 5, 0.2)
                found, expected = ops.shrink_select(*step), reference.shrink_select(*step)
                assert all(map(np.array_equal, found, expected)), (width, size, dtype)
                arguments = (delta, found[1], x, u, 0.7, threshold, 0.2)
                back, right = ops.shrink_select_backward(*arguments), reference.shrink_select_backward(*arguments)
                assert all(np.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(back, right)), (width, size, dtype)
            matrix = (rng.standard_normal((size, size)) / size).astype(dtype)
            assert np.allclose(ops.sparse_matmul(x, matrix), x @ matrix, atol=1e-5), (width, size, dtype)
            layers = (np.full(2, 0.7), np.full(2, 0.3), (size // 9, size // 5))
            found = ops.analytic_layers(x, u, ops.pack(matrix), *layers)
            assert np.allclose(found, reference.analytic_layers(x, u, matrix, *layers), atol=1e-4), (width, size, dtype)
    print(width)
"""


@pytest.mark.slow
def test_the_library_reads_and_writes_only_what_it_may(tmp_path):
    if reason := shim.why_not() or native.why_not():
        pytest.skip(reason)
    compiler, library, flag = shim.compiler(), tmp_path / "library.so", "-fsanitize=address,undefined"
    sources = [str(native.FOLDER / f"{source}.cpp") for source in native.SOURCES]
    flags = [*native.FLAGS, *DEFINITIONS, "-g1", "-shared", "-fPIC", flag, "-fno-sanitize-recover=all"]
    subprocess.run([compiler, *flags, *sources, "-o", library], check=True)
    runtime = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = {**os.environ, **shim.OPTIONS, "LD_PRELOAD": runtime.stdout.strip()}
    command = [*shim._without_aslr(), sys.executable, "-c", CHECK, library]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert tuple(done.stdout.split()) == native.library().widths
