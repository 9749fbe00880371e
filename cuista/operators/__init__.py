"""Linear operators, which map signals to measurements, with their adjoints and gains."""

from cuista.operators.base import Operator, dot_test
from cuista.operators.convolution import Convolution
from cuista.operators.dense import Dense

__all__ = ["Convolution", "Dense", "Operator", "dot_test"]
