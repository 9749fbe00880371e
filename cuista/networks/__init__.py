"""Unrolled networks, one to a file: parameters, forward pass and hand-derived backward pass side by side."""

from cuista.networks.alista import Alista
from cuista.networks.base import Network, support_schedule

__all__ = ["Alista", "Network", "support_schedule"]
