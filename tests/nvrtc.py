"""NVRTC, the CUDA compiler as a library, without CuPy and without a driver."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib import util
from pathlib import Path


@cache
def library() -> ctypes.CDLL | None:
    """The library of the package nvidia-cuda-nvrtc-cu12 (or -cu13), if it is installed."""
    try:
        spec = util.find_spec("nvidia")
    except ImportError:
        return None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*/lib/libnvrtc.so.*"), reverse=True):
            return ctypes.CDLL(str(path))
    return None


def compile_cubin(text: str, name: str, options: tuple[str, ...]) -> tuple[bool, str]:
    """Compile to machine code, and return whether it worked and what the compiler said."""
    nvrtc = library()
    assert nvrtc is not None
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    flags = [option.encode() for option in options]
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), name.encode(), 0, None, None) == 0
    try:
        status = nvrtc.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
        assert nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size)) == 0
        log = ctypes.create_string_buffer(size.value)
        assert nvrtc.nvrtcGetProgramLog(program, log) == 0
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return status == 0, log.value.decode()
