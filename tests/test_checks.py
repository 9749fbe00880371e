"""Arrays from outside are refused with their place and a way to go on, or taken: real or complex, of many snapshots."""

from __future__ import annotations

import numpy as np
import pytest

from cuista.checks import (
    LARGEST_MEASUREMENT,
    as_numbers,
    as_real,
    check_finite,
    check_layout,
    check_matrix,
    check_rows,
    is_extreme,
)
from cuista.errors import InputError

KINDS = [
    ("f4", "f4"),
    ("f8", "f8"),
    ("c8", "c8"),
    ("c16", "c16"),
    ("i2", "f8"),
    ("?", "f8"),
    ("f2", "f8"),
    (">f4", "f8"),
]
KINDS += [(">c8", "c16"), ("g", "f8"), ("G", "c16")]


@pytest.mark.parametrize(("kind", "expected"), KINDS)
def test_numbers_keep_their_precision_or_become_double(kind, expected):
    array = np.ones((2, 3), kind)
    found = as_numbers(array, "A")
    assert found.dtype == np.dtype(expected)
    np.testing.assert_array_equal(found, 1)
    assert (found is array) == (kind == expected)


@pytest.mark.parametrize("array", [["a", "b"], np.array([{}], object), np.array(["2020-01-01"], "M8[D]")])
def test_what_is_no_number_is_refused(array):
    for convert, expected in ((as_numbers, "expected real or complex numbers"), (as_real, "expected real numbers")):
        with pytest.raises(InputError, match=f"the array has dtype .*; {expected}"):
            convert(array, "the array")


def test_what_must_be_real_says_so():
    for kind in ("complex64", "complex128"):
        with pytest.raises(InputError, match=f"^the filters must be real; found {kind}$"):
            as_real(np.ones(3, kind), "the filters")


@pytest.mark.parametrize("bad", [complex(0, np.nan), complex(0, np.inf), complex(np.nan, 0)])
def test_both_parts_of_a_number_must_be_finite(bad):
    array = np.ones((3, 4), complex)
    array[1, 2] = bad
    with pytest.raises(InputError, match=r"A has 1 NaN or infinite entries, the first at \(1, 2\)"):
        check_finite(array, "A")
    with pytest.raises(InputError, match=r"A has 1 NaN or infinite entries, the first at \(1, 2\)"):
        check_matrix(array, "A")
    with pytest.raises(InputError, match=r"y: entry 2 of sample 1 is .*(nan|inf)"):
        check_rows(array, 4, "y")
    with pytest.raises(InputError, match=r"y: entry 2 of snapshot 1 of sample 0 is .*(nan|inf)"):
        check_rows(array[None], 4, "y", snapshots=3)


def test_the_modulus_of_a_complex_number_is_its_magnitude():
    np.testing.assert_array_equal(is_extreme([0, 1j, 1e16j, 8e14 + 8e14j, 1e-16j]), [False, False, True, True, True])
    with pytest.raises(InputError, match=r"the largest entry of A is 1e\+16 in magnitude"):
        check_matrix([[1, 1e16j]], "A")
    large = 0.9 * LARGEST_MEASUREMENT
    assert check_rows([[large, 0], [0, large * 1j]], 2, "y").dtype == np.complex128
    with pytest.raises(InputError, match=r"y: the largest entry of sample 1 is 1\.27e\+33 in magnitude"):
        check_rows([[large, 0], [0, large * (1 + 1j)]], 2, "y")
    with pytest.raises(InputError, match="y: the largest entry of sample 1 is"):
        check_rows(np.array([[[1, 1], [1, 1]], [[0, 0], [0, 1e34j]]]), 2, "y", snapshots=2)


def test_a_column_of_imaginary_numbers_is_not_zero():
    assert check_matrix([[1, 1j], [0, 0]], "A").dtype == np.complex128
    with pytest.raises(InputError, match="column 1 of A is zero"):
        check_matrix([[1, 0j], [1j, 0]], "A")


@pytest.mark.parametrize("kind", [np.float32, np.complex64])
def test_samples_have_as_many_snapshots_as_the_caller_says(kind, rng):
    y = rng.standard_normal((5, 3, 20)).astype(kind)
    for given, expected in ((y, y), (y[0], y[:1]), (y[:0], y[:0])):
        found = check_rows(given, 20, "y", snapshots=3)
        assert found.dtype == kind
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(check_rows(y[0], 20, "y"), y[0])
    np.testing.assert_array_equal(check_rows(y[0, 0], 20, "y", snapshots=1), y[:1, 0])


@pytest.mark.parametrize(
    ("shape", "columns", "samples"),
    [((5, 3, 20), False, 5), ((3, 20), False, 1), ((20, 3, 5), True, 5), ((20, 3), True, 1), ((0, 3, 20), False, 0)],
)
def test_samples_with_snapshots_are_counted(shape, columns, samples):
    assert check_layout(shape, 20, "y", columns=columns, snapshots=3) == samples


@pytest.mark.parametrize(
    ("shape", "columns", "advice"),
    [
        ((5, 4, 20), False, r"expected \(samples, 3, 20\), or \(3, 20\) for one sample; 3 snapshots .*, and it has 4$"),
        ((20,), False, "3 snapshots of each sample are expected, and it has 1$"),
        ((4, 20), False, "3 snapshots of each sample are expected, and it has 4$"),
        ((6, 20), False, r"2 samples with their snapshots one after the other, reshape it to \(-1, 3, 20\)$"),
        ((20, 3, 5), False, "it looks transposed: its samples seem to be columns$"),
        ((20, 3), False, "it looks transposed: its samples seem to be columns$"),
        ((20, 4, 5), True, r"expected \(20, 3, samples\), or \(20, 3\) for one .*, and it has 4$"),
        ((5, 3, 20), True, "it looks transposed: its samples seem to be rows"),
        ((5, 3, 40), False, "40 is the length of the signals"),
        ((7, 5, 3, 20), False, "for one sample$"),
    ],
)
def test_another_number_of_snapshots_is_refused_with_advice(shape, columns, advice):
    with pytest.raises(InputError, match=advice) as error:
        check_layout(shape, 20, "y", columns=columns, signals=40, snapshots=3)
    assert f"y has shape {shape}" in str(error.value)
