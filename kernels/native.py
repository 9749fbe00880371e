"""The native library: its C++ sources, how they are compiled, and the small loader.

The library is compiled when cuista is installed, if there is a C++ compiler (`setup.py`). It is loaded with ctypes,
which releases the interpreter's lock during a call, and knows nothing of Python, so that one binary serves all Python
versions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

# The C++ files. Each but the first has all functions, for one vector width.
SOURCES = ("native", "cpu_avx512", "cpu_avx2", "cpu_neon", "cpu_plain")
# Nothing here changes a result: a·b + c is not contracted, and NaN, −0 and the order of sums are kept.
FLAGS = (
    *("-std=c++17", "-O3", "-g0", "-fvisibility=hidden"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"),
    "-Wno-unknown-pragmas",  # GCC does not know CUDA's #pragma unroll
)

# The arguments of the functions: pointers, numbers of the function's floating-point type, `long`, `int`,
# `double` and 64-bit words.
_FUNCTIONS = {
    "shrink_select": "ppr pllpl rill pppp",
    "shrink_select_backward": "ppppr pll rll ppp",
    "shrink_joint": "ppr pllpl r llll pppp pp",
    "shrink_joint_backward": "ppppr pll r llll ppp",
    "sparse_matmul": "ppilll ppp",
    "multiply_where": "pppilll ppp",
    "adam": "pp ri lll ppp",
    "adam_outer": "ppp rii llll l ppp ppp",
    "pack": "pillp",
    "analytic_layers": "ill pppplp idlllll ppp ppp p",
    "conv_layer": "ppprplpi lllllll ppppp",
    "conv_step": "pppprplpi llllllll ppppppp",
    "conv_step_backward": "pppprppiii llllllll ppppp pppppp",
    "proximal_iterations": "pprpll iiidllll pppp ppp",
    "alista_step": "ill pppp irrwirrl wwwddd ppppp ridll ll lll pppp ppp pppl p ppp p",
}


class _Pointer:
    """An argument that is an array, which exists until the call returns."""

    @staticmethod
    def from_param(array: Any) -> Any:
        if not array.flags.c_contiguous:
            raise ValueError("an array for the native library is not contiguous")
        if array.flags.writeable and array.size:  # several times faster than asking for the address
            return ctypes.byref(ctypes.c_char.from_buffer(array))
        return ctypes.c_void_p(array.__array_interface__["data"][0])


_TYPES = {"p": _Pointer, "l": ctypes.c_long, "i": ctypes.c_int, "d": ctypes.c_double, "w": ctypes.c_uint64}
_REALS = {"float32": ("float", ctypes.c_float), "float64": ("double", ctypes.c_double)}

Function = Callable[..., None]


class Library:
    """The functions of a native library for one vector width.

    Parameters
    ----------
    path
        The library's file.
    width
        One of `widths`, or None for the fastest.

    Attributes
    ----------
    widths
        The vector widths that the library and this processor have, the fastest first.
    width
        The one that is used.

    Raises
    ------
    OSError
        If the file cannot be loaded, or belongs to another version of cuista.
    ValueError
        If there is no such width here.
    """

    def __init__(self, path: Path, width: str | None = None) -> None:
        import numpy as np
        from cuista.kernels.constants import INTERFACE

        library = ctypes.CDLL(str(path))
        if not hasattr(library, "cuista_interface") or library.cuista_interface() != INTERFACE:
            raise OSError(f"{path.name} was compiled for another version of cuista: install cuista again")
        library.cuista_widths.restype = ctypes.c_char_p
        self.widths = tuple(library.cuista_widths().decode().split())
        self.width = width or self.widths[0]
        if self.width not in self.widths:
            raise ValueError(f"there is no vector width {width!r} here, only {', '.join(self.widths)}")
        self._functions: dict[tuple[str, Any], Function] = {}
        for name, arguments in _FUNCTIONS.items():
            for dtype, (real, kind) in _REALS.items():
                function: Any = getattr(library, f"cuista_{name}_{real}_{self.width}")
                function.argtypes = [{**_TYPES, "r": kind}[each] for each in arguments.replace(" ", "")]
                function.restype = None
                self._functions[name, np.dtype(dtype)] = function

    def __call__(self, name: str, dtype: Any) -> Function:
        """The function with this name for arrays of this type, float32 or float64."""
        return self._functions[name, dtype]


def installed() -> Path | None:
    """The file of the library that was compiled when cuista was installed; None if there is none."""
    files = (FOLDER / f"_native{suffix}" for suffix in EXTENSION_SUFFIXES)
    return next((file for file in files if file.exists()), None)


@cache
def why_not() -> str | None:
    """The reason why the installed library cannot be used; None if it can."""
    path = installed()
    if path is None:
        return "the library was not compiled when cuista was installed, which takes a C++ compiler (g++ or clang++)"
    try:
        Library(path)
    except (OSError, AttributeError) as error:
        return f"the library cannot be loaded: {error}"
    return None


@cache
def library() -> Library:
    """The installed library, for the fastest vector width."""
    path = installed()
    assert path is not None, why_not()
    return Library(path)
