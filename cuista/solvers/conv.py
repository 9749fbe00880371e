"""Denoising methods with which the convolutional networks are compared."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike

from cuista.checks import Array
from cuista.data.dictionary import Dictionary
from cuista.errors import InputError
from cuista.operators import Convolution
from cuista.ops import ReferenceOps, engine
from cuista.solvers.proximal import proximal_gradient
from cuista.solvers.tuning import tune_unimodal

# The number of values from which λ is chosen.
TRIED = 16


class ConvFista:
    """Denoise pictures by FISTA: min_x ½‖f − Σ d_m ⋆ x_m‖² + λ Σ‖x_m‖₁, starting from x = 0. The result is Σ d_m ⋆ x_m.

    Beck, Teboulle, SIAM J. Imaging Sciences 2009. Pictures must have mean 0. An iteration costs as much as a layer of a
    convolutional network.

    Parameters
    ----------
    dictionary
        The dictionary of the filters d_m.
    iterations
        The number of iterations.
    lam
        The parameter λ.
    stride
        The stride of the maps.
    ops, dtype
        The engine (the CPU engine if None), and the precision in which it computes.

    Raises
    ------
    InputError
        If `iterations`, `lam` or `stride` is out of range.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        iterations: int,
        lam: float = 0.05,
        *,
        stride: int = 1,
        ops: ReferenceOps | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        if iterations < 1 or not 0 < lam < np.inf:
            raise InputError(f"there are {iterations} iterations with λ = {lam}; expected 1 or more, and λ more than 0")
        self.ops, self.dtype = ops or engine("cpu"), np.dtype(dtype)
        self.iterations, self.lam = iterations, lam
        self.operator = Convolution(dictionary.D, stride=stride, ops=self.ops, dtype=self.dtype)

    def iterates(self, f: Array) -> Iterator[tuple[Array, Array]]:
        """Yield the maps x_1, x_2, … for a picture f (H, W), each with its synthesis."""
        f = self.ops.asarray(f, self.dtype)[None]
        for x, picture in proximal_gradient(self.operator, f, self.lam, self.iterations, momentum=True):
            yield x[0], picture[0]

    def denoise(self, f: Array) -> Array:
        """Denoise a picture f (H, W) with mean 0. The result is in host memory."""
        return self.ops.to_numpy(deque(self.iterates(f), maxlen=1).pop()[1])

    def tune(self, pairs: Sequence[tuple[Array, Array]]) -> float:
        """Set λ to the best of 16 values from 1e-3 to 1 by the mean PSNR on clean and noisy pictures, and return it.

        The PSNR rises up to the best λ and falls beyond it. Therefore the search goes from coarse to fine and skips
        most values.
        """

        def log_error(part: slice) -> float:
            ((clean, noisy),) = pairs[part]
            return float(np.log(np.square(self.denoise(noisy) - clean).mean()))

        def error(lam: float) -> float:
            self.lam = lam
            return float(np.mean(self.ops.in_batches((len(pairs), 1), log_error, 1)))

        self.lam = tune_unimodal(error, np.geomspace(1e-3, 1, TRIED).tolist())
        return self.lam


def non_local_means(sigma: float) -> Callable[[Array], Array] | None:
    """Make a denoiser by non-local means for noise with standard deviation σ. Return None without scikit-image.

    Buades, Coll, Morel, CVPR 2005, in scikit-image's fast variant: patches of 5×5 pixels, which are searched for at
    distances of up to 6 pixels, and h = 0.6 σ.
    """
    try:
        from skimage.restoration import denoise_nl_means
    except ImportError:
        return None

    def denoise(noisy: Array) -> Array:
        return np.asarray(
            denoise_nl_means(noisy, patch_size=5, patch_distance=6, h=0.6 * sigma, sigma=sigma, fast_mode=True)
        )

    return denoise


def bm3d(sigma: float) -> Callable[[Array], Array] | None:
    """Make a denoiser by BM3D for noise with standard deviation σ. Return None without its authors' package `bm3d`.

    Dabov, Foi, Katkovnik, Egiazarian, IEEE Trans. Image Processing 2007, with default options. The package is for
    non-commercial use only.
    """
    try:
        from bm3d import bm3d as denoise_bm3d
    except (ImportError, OSError):  # its binaries may be for other systems
        return None

    # Pictures may come without their mean, and BM3D expects the values of a picture.
    return lambda noisy: np.asarray(denoise_bm3d(noisy + 0.5, sigma)) - 0.5
