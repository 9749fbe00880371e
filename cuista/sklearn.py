"""A scikit-learn estimator that recovers sparse codes by an unrolled network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cuista import ops
from cuista.checks import Array, library
from cuista.data.problem import Problem
from cuista.data.signals import SignalSet
from cuista.messages import warn
from cuista.tasks.sparse_coding import Model, SparseCoding, analytic_weight
from cuista.training import train

library("sklearn", "sklearn", "cuista.sklearn needs scikit-learn")
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin  # noqa: E402
from sklearn.utils import check_random_state  # noqa: E402
from sklearn.utils.validation import check_array, check_is_fitted, validate_data  # noqa: E402


class SparseRecovery(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A transformer from measurements to sparse codes, like `sklearn.decomposition.SparseCoder`, by a trained network.

    Parameters
    ----------
    dictionary : array (n_components, n_features)
        The atoms, one in each row, with any norms. It is the transpose of the measurement matrix A, so that
        measurements are `codes @ dictionary`, as everywhere in scikit-learn.
    pnz
        The probability that an entry of a code is non-zero, for training without codes.
    snr_db
        The signal-to-noise ratio of the measurements in dB; `inf` means no noise. Given pairs have their own.
    positive_code
        Whether no entry of a code is negative.
    net, layers
        The network's name and its number of layers: see `cuista.Model.new`.
    recipe
        How to train, a `cuista.FastRecipe` for example; None for the default.
    device
        Where to compute: `auto`, `cpu` or `cuda:N`.
    random_state
        The seed of training: a whole number, a `numpy.random.RandomState`, or None for a seed that is drawn.

    Attributes
    ----------
    model_
        The trained `cuista.Model`.
    n_features_in_
        The number of measurements of a signal.

    Notes
    -----
    All checks of scikit-learn's `check_estimator` pass, except that of arrays of other libraries
    (`check_array_api_input`), if the dictionary has as many features as the data of the check: from 1 to 10. As for
    `SparseCoder`, no single dictionary fits the data of all checks.
    """

    def __init__(
        self,
        dictionary: ArrayLike,
        *,
        pnz: float = 0.1,
        snr_db: float = float("inf"),
        positive_code: bool = False,
        net: str = "alista",
        layers: int = 16,
        recipe: Any = None,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.dictionary, self.pnz, self.snr_db, self.positive_code = dictionary, pnz, snr_db, positive_code
        self.net, self.layers, self.recipe = net, layers, recipe
        self.device, self.random_state = device, random_state

    def fit(self, X: Any = None, y: Any = None, *, codes: Any = None) -> SparseRecovery:
        """Train the network.

        Parameters
        ----------
        X
            What X holds is known by its number of columns:

            - codes (n_samples, n_components): the network is trained on them, and on the measurements that the
              dictionary gives them;
            - measurements (n_samples, n_features), as in a pipeline: they are only checked, because a network cannot be
              trained without codes. It is trained on random codes with the probability `pnz`;
            - None: the same without a check.

            If n_components = n_features, X holds measurements. A warning says so unless `codes` are given.
        y
            Ignored; it is there for pipelines.
        codes
            Codes (n_samples, n_components) to train on; those of the measurements X, if X is given.

        Raises
        ------
        ValueError
            If an array has the wrong shape, or is not of finite real numbers.
        """
        atoms = check_array(self.dictionary, dtype=[np.float64, np.float32], input_name="dictionary")
        components, features = atoms.shape
        if components < features:
            warn(
                f"the dictionary has {components} atoms of {features} features, fewer atoms than features. Its rows "
                "are atoms: if it is the measurement matrix A, give its transpose",
                stacklevel=2,
            )
        if self.recipe is not None and not isinstance(self.recipe, SparseCoding.kinds):
            raise ValueError(
                f"recipe is {self.recipe!r}; expected one such as cuista.FastRecipe(max_steps=100), or None"
            )
        if X is not None and codes is None:
            columns = tuple(X.shape if hasattr(X, "shape") else np.asarray(X).shape)[1:]
            if columns == (components,) != (features,):
                X, codes = None, X
        if X is None:
            self.n_features_in_ = features
        else:
            X = self._validated(X, reset=True)
            if X.shape[1] != features:
                raise ValueError(
                    f"X has {X.shape[1]} features, but the dictionary has {components} atoms of {features}: expected "
                    f"measurements of {features} features, or codes of {components}"
                )
            if codes is None and components == features:
                warn(
                    f"X has {features} columns, as many as measurements and as codes: it is taken as measurements, "
                    "from which nothing is learned. To train on codes, give them as fit(codes=X)",
                    stacklevel=2,
                )
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        law: dict[str, Any] = {"pnz": self.pnz, "snr_db": self.snr_db, "positive": self.positive_code}
        problem = Problem(atoms.T, seed=int(seed), **law)
        signals = None
        if codes is not None:
            codes = check_array(codes, accept_sparse="csr", dtype=[np.float64, np.float32], input_name="codes")
            signals = SignalSet(codes, X)
            problem = problem.fitted(signals)
        engine = ops.engine(self.device)
        options: dict[str, Any] = {"layers": self.layers, "ops": engine}
        weight = analytic_weight(problem, self.net, recipe=self.recipe, data=signals, **options)
        model = Model.new(problem, weight, self.net, **options)
        self.model_ = train(model, self.recipe, data=signals, seed=int(seed))
        return self

    def transform(self, X: ArrayLike) -> Array:
        """Recover the codes (n_samples, n_components), float32, of measurements (n_samples, n_features)."""
        check_is_fitted(self)
        codes: Array = self.model_.recover(self._validated(X, reset=False))
        return codes

    @property
    def _n_features_out(self) -> int:
        return self.model_.problem.N

    def _validated(self, X: ArrayLike, reset: bool) -> Array:
        """Measurements as an array of floating-point numbers; `reset` says whether their features are now recorded."""
        found: Array = validate_data(self, X, reset=reset, dtype=[np.float64, np.float32])
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
