"""Linear operators, which map signals to measurements, with their adjoints and gains."""

from cuista.operators.base import Operator, dot_test
from cuista.operators.composition import Composition, Scaled, Stack
from cuista.operators.convolution import Convolution
from cuista.operators.dense import Dense
from cuista.operators.description import describe, description_sha256, from_description
from cuista.operators.external import External
from cuista.operators.masks import Mask, cartesian_mask, radial_mask, random_mask
from cuista.operators.sampled import Cosine, Hadamard
from cuista.operators.spectral import Circular, Fourier
from cuista.operators.wavelets import Wavelet

__all__ = [
    "Circular",
    "Composition",
    "Convolution",
    "Cosine",
    "Dense",
    "External",
    "Fourier",
    "Hadamard",
    "Mask",
    "Operator",
    "Scaled",
    "Stack",
    "Wavelet",
    "cartesian_mask",
    "describe",
    "description_sha256",
    "dot_test",
    "from_description",
    "radial_mask",
    "random_mask",
]
