"""Linear maps from signals to measurements: each applies itself and its adjoint to batches, and knows its gains."""

from cuista.operators.base import Operator, dot_test
from cuista.operators.convolution import Convolution
from cuista.operators.dense import Dense

__all__ = ["Convolution", "Dense", "Operator", "dot_test"]
