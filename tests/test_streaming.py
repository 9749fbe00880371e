"""Complex codes and those of several snapshots are written in the layout of their measurements, piece by piece."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from cuista import storage
from cuista.errors import FileError, InputError
from cuista.storage.streaming import recover_file

M, N = 4, 7
A = np.random.default_rng(0).standard_normal((M, N)) + 1j


def recoverer(snapshots=1, kind=np.complex64):
    """Something that makes codes of measurements, whose batches have ten samples at most."""
    shape = (M,) if snapshots == 1 else (snapshots, M)

    def recover(y):
        assert y.shape[1:] == shape
        assert len(y) <= 10
        return (y @ (A if np.dtype(kind).kind == "c" else A.real)).astype(kind)

    return SimpleNamespace(problem=SimpleNamespace(M=M, N=N, snapshots=snapshots), recover=recover, rows=10)


def measurements(samples, snapshots=1, kind=np.complex64):
    parts = np.random.default_rng(1).standard_normal((2, samples, *((snapshots,) if snapshots > 1 else ()), M))
    return (parts[0] + 1j * parts[1]).astype(kind)


@pytest.mark.parametrize("ending", [".npy", ".h5", ".csv"])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("samples", [25, None])
def test_complex_codes_have_the_layout_of_their_measurements(tmp_path, ending, columns, samples):
    y = measurements(samples or 1)
    y = y if samples else y[0]
    x = (y @ A).astype(np.complex64)
    storage.save_arrays(tmp_path / "y.h5", {"y": y.T if columns else y})
    assert recover_file(recoverer(), tmp_path / "y.h5", tmp_path / f"x{ending}", columns=columns) == (samples or 1)
    found = storage.load_array(tmp_path / f"x{ending}", "x").astype(np.complex64)
    np.testing.assert_allclose(found.T if columns else found, x, rtol=1e-5, atol=1e-6)
    if ending != ".csv":
        assert storage.load_array(tmp_path / f"x{ending}").dtype == np.complex64


@pytest.mark.parametrize("ending", [".npy", ".h5"])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("kind", [np.float32, np.complex64])
def test_codes_of_several_snapshots_have_three_axes(tmp_path, ending, columns, kind):
    y = measurements(25, 3).astype(kind) if kind is np.complex64 else measurements(25, 3).real
    x = recoverer(3, kind)
    expected = np.concatenate([x.recover(y[first : first + 10]) for first in range(0, 25, 10)])
    for of, codes in ((y, expected), (y[0], expected[0]), (y[:0], expected[:0])):
        path = tmp_path / "y.npy"
        np.save(path, of.T if columns else of)
        count = recover_file(x, path, tmp_path / f"x{ending}", columns=columns, overwrite=True)
        assert count == (len(of) if of.ndim == 3 else 1)
        found = storage.load_array(tmp_path / f"x{ending}")
        assert found.dtype == kind or not count
        np.testing.assert_allclose(found.T if columns else found, codes, rtol=1e-5, atol=1e-6)


def test_a_csv_file_holds_the_snapshots_of_one_sample(tmp_path):
    y = measurements(2, 3)
    for columns in (False, True):
        np.save(tmp_path / "y.npy", y[0].T if columns else y[0])
        recover_file(recoverer(3), tmp_path / "y.npy", tmp_path / "x.csv", columns=columns, overwrite=True)
        found = storage.load_array(tmp_path / "x.csv")
        np.testing.assert_allclose(found.T if columns else found, y[0] @ A, rtol=1e-5, atol=1e-6)
    np.save(tmp_path / "y.npy", y)
    with pytest.raises(
        InputError, match=r"the codes have the shape \(2, 3, 7\), and .* has lines and columns only"
    ) as error:
        recover_file(recoverer(3), tmp_path / "y.npy", tmp_path / "new.csv")
    assert error.value.options == ("out",)
    assert not (tmp_path / "new.csv").exists()
    np.save(tmp_path / "y.npy", np.ones((2, 4, M)))
    with pytest.raises(InputError, match="3 snapshots of each sample are expected, and it has 4"):
        recover_file(recoverer(3), tmp_path / "y.npy", tmp_path / "x.npy")


def test_more_arrays_beside_complex_codes_keep_their_own_kind(tmp_path):
    np.save(tmp_path / "y.npy", measurements(25))
    more = {"inspect": lambda y, x: {"size": np.abs(x)}, "more": ("size",)}
    recover_file(recoverer(), tmp_path / "y.npy", tmp_path / "x.h5", **more)
    found = storage.load_arrays(tmp_path / "x.h5")
    assert (found["x"].dtype, found["size"].dtype) == (np.complex64, np.float32)
    np.testing.assert_array_equal(found["size"], np.abs(found["x"]))


def test_pairs_of_columns_are_complex_measurements_if_that_is_asked_for(tmp_path):
    y = measurements(25, kind=np.complex128)
    np.savetxt(tmp_path / "y.csv", y.view(np.float64), delimiter=",")
    recover_file(recoverer(), tmp_path / "y.csv", tmp_path / "x.npy", pairs=True)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), y @ A, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"has shape \(25, 8\); expected \(samples, 4\)"):
        recover_file(recoverer(), tmp_path / "y.csv", tmp_path / "new.npy")


def test_an_imaginary_part_that_is_not_finite_is_named_and_leaves_no_file(tmp_path):
    y = measurements(25)
    y[17, 2] = complex(0, np.nan)
    np.save(tmp_path / "y.npy", y)
    with pytest.raises(InputError, match="entry 2 of sample 17 is nanj"):
        recover_file(recoverer(), tmp_path / "y.npy", tmp_path / "x.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["y.npy"]


def test_a_flipped_bit_in_an_imaginary_part_of_codes_is_found(tmp_path):
    np.save(tmp_path / "y.npy", measurements(25))
    recover_file(recoverer(), tmp_path / "y.npy", tmp_path / "x.h5")
    whole, x = bytearray((tmp_path / "x.h5").read_bytes()), storage.load_array(tmp_path / "x.h5")
    whole[whole.index(x[11].tobytes()) + 5] ^= 1
    (tmp_path / "x.h5").write_bytes(whole)
    with pytest.raises(FileError, match="is not what was written"):
        storage.load_array(tmp_path / "x.h5")
