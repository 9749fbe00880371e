"""Unrolled networks, each in its own file. Most consist of a coupling, with or without momentum, and a shrinkage."""

from cuista.networks.adaptive import AdaptiveAlista
from cuista.networks.alista import Alista
from cuista.networks.conv import ConvNetwork
from cuista.networks.conv_alista import ConvAlista
from cuista.networks.conv_csc import ConvCsc
from cuista.networks.conv_lista_cp import ConvListaCp, ConvListaCpss
from cuista.networks.conv_tilista import ConvTiLista
from cuista.networks.encoder import Encoder
from cuista.networks.error_based import ErrorBasedAlista
from cuista.networks.exact_encoder import ExactEncoder
from cuista.networks.hyperlista import HyperLista
from cuista.networks.lamp import Lamp
from cuista.networks.liht import Liht
from cuista.networks.lista import Lista, ListaSs
from cuista.networks.lista_cp import ListaCp, ListaCpss
from cuista.networks.momentum import MomentumAlista
from cuista.networks.proximal import Network
from cuista.networks.robust import RobustAlista
from cuista.networks.tilista import TiLista

NETWORKS: dict[str, type[Network]] = {
    network.name: network
    for network in (
        *(Alista, Lista, ListaCp, ListaSs, ListaCpss, TiLista, Lamp, Liht),
        *(AdaptiveAlista, MomentumAlista, ErrorBasedAlista, HyperLista),
    )
}

CONV_NETWORKS: dict[str, type[ConvNetwork]] = {
    network.name: network for network in (ConvAlista, ConvListaCp, ConvListaCpss, ConvTiLista, ConvCsc)
}

__all__ = ["CONV_NETWORKS", "NETWORKS", "Alista", "ConvNetwork", "Encoder", "ExactEncoder", "Network", "RobustAlista"]
