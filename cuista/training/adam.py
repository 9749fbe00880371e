"""Adam (Kingma and Ba, ICLR 2015) in the form that TensorFlow 1 gave it, which the paper's results rest on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cuista.checks import Array

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass
class Adam:
    """The optimiser's state: the moments of each parameter's gradient, and the number of updates so far."""

    mean: dict[str, Array] = field(default_factory=dict)
    square: dict[str, Array] = field(default_factory=dict)
    updates: int = 0

    def step(self, gradients: dict[str, Array], learning_rate: float) -> dict[str, Array]:
        """What to subtract from each parameter: lr·√(1 − β2^t)/(1 − β1^t) · m/(√v + ε).

        ε stands beside the uncorrected √v, so it weighs more on small gradients than in the paper of Adam. A
        parameter whose gradient has always been 0 does not move.
        """
        self.updates += 1
        rate = learning_rate * np.sqrt(1 - BETA2**self.updates) / (1 - BETA1**self.updates)
        steps = {}
        for name, gradient in gradients.items():
            mean = self.mean.setdefault(name, np.zeros_like(gradient))
            square = self.square.setdefault(name, np.zeros_like(gradient))
            mean += (1 - BETA1) * (gradient - mean)
            square += (1 - BETA2) * (gradient * gradient - square)
            steps[name] = rate * mean / (np.sqrt(square) + EPSILON)
        return steps
