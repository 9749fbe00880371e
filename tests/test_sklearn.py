"""The scikit-learn estimator: its conventions, and that it is the network that the library trains."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import warnings
from functools import partial

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import SparseCoder
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator

import cuista
from cuista.sklearn import SparseRecovery

QUICK = cuista.FastRecipe(batch=16, validation_batch=100, layer_steps=2, max_steps=20)
QUICKEST = cuista.FastRecipe(batch=4, validation_batch=8, layerwise=False, max_steps=2)

# The numbers of features in the data of some of scikit-learn's checks; the others have three.
FEATURES = {
    "check_dtype_object": 10,
    "check_estimators_dtypes": 5,
    "check_estimators_fit_returns_self": 2,
    "check_estimators_overwrite_params": 2,
    "check_fit2d_1feature": 1,
    "check_fit2d_1sample": 10,
    "check_fit_check_is_fitted": 2,
    "check_fit_idempotent": 2,
    "check_n_features_in": 2,
    "check_n_features_in_after_fitting": 4,
    "check_positive_only_tag_during_fit": 4,
    "check_readonly_memmap_input": 2,
}


def checked(features):
    dictionary = np.random.default_rng(0).standard_normal((features + 13, features))
    return SparseRecovery(dictionary, layers=1, recipe=QUICKEST, device="cpu", random_state=0)


CHECKS = [check for _, check in estimator_checks_generator(checked(3))]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.func.__name__)
@pytest.mark.filterwarnings("default")
def test_scikit_learns_checks_pass(check):
    name = check.func.__name__
    if name == "check_array_api_input":
        pytest.skip("for estimators that support the array API")
    partial(check.func, *check.args, **check.keywords)(checked(FEATURES.get(name, 3)))


@pytest.fixture(scope="module")
def dictionary():
    return np.random.default_rng(1).standard_normal((40, 20)) * np.geomspace(0.5, 2, 40)[:, None]


def signals(count, seed):
    rng = np.random.default_rng(seed)
    return (rng.random((count, 40)) < 0.05) * rng.laplace(size=(count, 40))


def estimator(dictionary, **options):
    return SparseRecovery(dictionary, layers=3, recipe=QUICK, device="cpu", random_state=3, **options)


@pytest.fixture(scope="module")
def fitted(dictionary):
    return estimator(dictionary).fit(signals(2000, 0))


def test_it_is_the_network_that_the_library_trains_on_the_codes(dictionary, fitted):
    x = signals(2000, 0)
    problem = cuista.Problem(dictionary.T, seed=3).fitted(x)
    model = cuista.train(cuista.Model.new(problem, layers=3), QUICK, data=x, seed=3)
    tested = signals(500, 1)
    y = tested @ dictionary
    codes = fitted.transform(y)
    np.testing.assert_array_equal(codes, model.recover(y))
    assert codes.dtype == np.float32
    assert np.square(codes - tested).sum() < 0.2 * np.square(tested).sum()
    assert fitted.n_features_in_ == 20
    assert list(fitted.get_feature_names_out()[:2]) == ["sparserecovery0", "sparserecovery1"]


def test_it_takes_and_gives_what_a_sparse_coder_does(dictionary, fitted):
    y = signals(50, 1) @ dictionary
    other = SparseCoder(dictionary, transform_algorithm="threshold").fit(y).transform(y)
    assert fitted.transform(y).shape == other.shape
    assert clone(fitted).fit(y).transform(y).shape == other.shape


def test_measurements_with_codes_are_pairs_whose_noise_counts(dictionary):
    x = signals(2000, 0)
    y = x @ dictionary + 0.05 * np.random.default_rng(2).standard_normal((2000, 20))
    found = estimator(dictionary).set_params(layers=1).fit(y, codes=x).model_
    assert found.training["trained_on"]["pairs"]
    assert 15 < found.problem.snr_db < 40


def test_without_codes_the_network_is_trained_by_its_law(dictionary):
    y = signals(30, 0) @ dictionary
    alone, given = (estimator(dictionary, pnz=0.03).set_params(layers=1, recipe=QUICKEST).fit(X) for X in (None, y))
    np.testing.assert_array_equal(alone.transform(y), given.transform(y))
    assert alone.model_.problem.pnz == 0.03
    assert "trained_on" not in alone.model_.training


def test_codes_without_negative_entries_are_recovered_as_such(dictionary):
    recovery = SparseRecovery(dictionary, positive_code=True, layers=4, recipe=QUICK, random_state=1).fit()
    assert recovery.transform(np.abs(np.random.default_rng(1).standard_normal((9, dictionary.shape[1])))).min() >= 0


def test_a_square_dictionary_is_told_what_its_data_are_taken_for(dictionary):
    square = dictionary[:20]
    x = signals(1500, 0)[:, :20]
    with pytest.warns(UserWarning, match="it is taken as measurements, from which nothing is learned"):
        assert "trained_on" not in estimator(square).fit(x).model_.training
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "trained_on" in estimator(square).fit(codes=x).model_.training


def test_it_works_in_a_pipeline_with_labels(dictionary):
    x = signals(1500, 0)
    y, labels = x @ dictionary, x.sum(axis=1)
    pipeline = make_pipeline(FunctionTransformer(), estimator(dictionary), Ridge())
    pipeline.fit(y, labels, sparserecovery__codes=x)
    assert pipeline.score(y, labels) > 0.7
    pipeline.set_params(sparserecovery__layers=2).fit(y, labels)
    assert pipeline[1].model_.network.layers == 2


def test_a_fitted_estimator_is_saved_and_copied(dictionary, fitted, tmp_path):
    import joblib

    y = signals(20, 1) @ dictionary
    file = io.BytesIO()
    joblib.dump(fitted, file)
    file.seek(0)
    for other in (joblib.load(file), copy.deepcopy(fitted)):
        np.testing.assert_array_equal(other.transform(y), fitted.transform(y))
        assert other.get_params().keys() == fitted.get_params().keys()
    with pytest.raises(NotFittedError):
        clone(fitted).transform(y)


def test_the_seed_may_be_drawn(dictionary):
    y = signals(20, 1) @ dictionary
    quickest = estimator(dictionary).set_params(layers=1, recipe=QUICKEST)
    draw = [clone(quickest).set_params(random_state=np.random.RandomState(seed)).fit() for seed in (0, 0, 1)]
    first, same, other = (found.transform(y) for found in draw)
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_matrix_in_place_of_its_transpose_is_told(dictionary):
    with pytest.warns(UserWarning, match="20 atoms of 40 features, .* give its transpose"):
        SparseRecovery(dictionary.T, layers=1, recipe=QUICKEST, device="cpu").fit()


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones((5, 7)), "X has 7 features, but the dictionary has 40 atoms of 20"),
        (np.full((5, 20), np.nan), "NaN"),
        (np.ones((200, 40)), "all the same"),
    ],
)
def test_data_that_do_not_fit_are_refused(dictionary, X, message):
    with pytest.raises(ValueError, match=message):
        estimator(dictionary).fit(X)


def test_without_scikit_learn_the_extra_is_named():
    code = "import sys; sys.modules['sklearn'] = None; import cuista; import cuista.sklearn"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "MissingLibraryError" in found.stderr
    assert "pip install 'cuista[sklearn]'" in found.stderr
