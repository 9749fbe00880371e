"""Unrolled networks, one to a file: parameters, forward pass and hand-derived backward pass side by side."""

from cuista.networks.adaptive import AdaptiveAlista
from cuista.networks.alista import Alista
from cuista.networks.base import Network, support_schedule
from cuista.networks.error_based import ErrorBasedAlista
from cuista.networks.hyperlista import HyperLista
from cuista.networks.lamp import Lamp
from cuista.networks.liht import Liht
from cuista.networks.lista import Lista, ListaSs
from cuista.networks.lista_cp import ListaCp, ListaCpss
from cuista.networks.momentum import MomentumAlista
from cuista.networks.tilista import TiLista

NETWORKS: dict[str, type[Network]] = {
    network.name: network
    for network in (
        *(Alista, Lista, ListaCp, ListaSs, ListaCpss, TiLista, Lamp, Liht),
        *(AdaptiveAlista, MomentumAlista, ErrorBasedAlista, HyperLista),
    )
}

__all__ = ["NETWORKS", "Alista", "Network", "support_schedule"]
