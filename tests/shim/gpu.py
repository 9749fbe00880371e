"""A stand-in for CuPy, built on NumPy: arrays of a device that the host cannot read by accident.

As with CuPy, an operation that mixes these arrays with NumPy's is an error, functions and indexing return
zero-dimensional arrays where NumPy returns numbers, and reading a number waits for the device. The waits are counted.
An array is on the device that was the thread's current one when it was made, and can be used only while that device is
the current one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin


class Gpu:
    """A device. Within `with`, it is its thread's current device; otherwise that is device 0."""

    _thread = threading.local()

    def __init__(self, number: int) -> None:
        self.number = number

    @classmethod
    def current(cls) -> int:
        return getattr(cls._thread, "number", 0)

    def __enter__(self) -> None:
        self._before, Gpu._thread.number = self.current(), self.number

    def __exit__(self, *_: Any) -> None:
        Gpu._thread.number = self._before


class DeviceArray(NDArrayOperatorsMixin):
    """An array on a device. Only the shim may use `host`."""

    waits = 0  # how often the host has waited for a number

    def __init__(self, host: Any) -> None:
        self.host, self.device = np.asarray(host), Gpu.current()

    def get(self) -> np.ndarray:
        """A copy in host memory."""
        DeviceArray.waits += 1
        return self.host.copy()

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("implicit conversion of a device's array to a NumPy array")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        results = {} if out is None else {"out": tuple(_unwrapped(item) for item in out)}
        result = getattr(ufunc, method)(*map(_unwrapped, inputs), **results, **options)
        return DeviceArray(result) if out is None else out[0]

    def __getitem__(self, key: Any) -> DeviceArray:
        key = _unwrapped(key if isinstance(key, tuple) else (key,))
        whole = key if any(part is Ellipsis for part in key) else (*key, ...)
        return DeviceArray(_unwrapped(self)[whole])  # a view, even with no dimensions

    def __setitem__(self, key: Any, value: Any) -> None:
        _unwrapped(self)[_unwrapped(key)] = _unwrapped(value)

    def __iter__(self) -> Iterator[DeviceArray]:
        return (self[i] for i in range(len(self)))

    def __len__(self) -> int:
        return len(self.host)

    def __float__(self) -> float:
        return float(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "dtype", "ndim", "size", "itemsize", "nbytes"):
            return getattr(self.host, name)
        if name in ("T", "real", "imag"):
            return DeviceArray(getattr(_unwrapped(self), name))
        if name == "data":
            return SimpleNamespace(ptr=self.host.ctypes.data)
        if name in ("astype", "copy", "reshape", "sum", "mean", "std", "any", "max", "conj", "view", "swapaxes"):
            return _on_device(getattr(_unwrapped(self), name))
        raise AttributeError(f"a device's array has no {name} in this shim")


class DeviceModule:
    """The array module: NumPy's functions for the device's arrays."""

    ndarray = DeviceArray
    cuda = SimpleNamespace(Device=Gpu)

    def asarray(self, array: Any, dtype: Any = None, order: Any = None) -> DeviceArray:
        """The array on the device. No other function takes NumPy's arrays."""
        if not isinstance(array, DeviceArray):
            return DeviceArray(np.array(array, dtype=dtype, order=order))
        host = np.asarray(_unwrapped(array), dtype=dtype, order=order)
        return array if host is array.host else DeviceArray(host)

    def empty(self, shape: Any, dtype: Any) -> DeviceArray:
        """An array filled with bytes that no result should contain."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return DeviceArray(np.full(size, 0xA5, np.uint8).view(dtype).reshape(shape))

    @property
    def fft(self) -> SimpleNamespace:
        """The part of NumPy's Fourier transforms that is needed."""
        names = ("fft", "ifft", "fftn", "ifftn", "rfftn", "irfftn")
        return SimpleNamespace(**{name: _on_device(getattr(np.fft, name)) for name in names})

    @property
    def linalg(self) -> SimpleNamespace:
        """The part of NumPy's linear algebra that is needed."""
        return SimpleNamespace(solve=_on_device(np.linalg.solve))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return _on_device(getattr(np, name))


def launcher_on(launch: Callable[..., None]) -> Callable[..., None]:
    """Turn a launcher of kernels on NumPy's arrays into one on the device's arrays."""

    def launch_on_device(
        kernel: str, real: str, grid: int, block: int, arguments: Sequence[Any], shared: int = 0
    ) -> None:
        launch(kernel, real, grid, block, [_unwrapped(argument) for argument in arguments], shared)

    return launch_on_device


def _on_device(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        result = function(*map(_unwrapped, arguments), **{name: _unwrapped(option) for name, option in options.items()})
        return DeviceArray(result) if isinstance(result, np.ndarray | np.generic) else result

    return call


def _unwrapped(item: Any) -> Any:
    """The item, with NumPy arrays in place of this device's. NumPy's own arrays and another device's are refused."""
    if isinstance(item, DeviceArray):
        if item.device != Gpu.current():
            raise ValueError(f"an array of device {item.device}, where device {Gpu.current()} is the current one")
        return item.host
    if isinstance(item, np.ndarray):
        raise TypeError(f"a NumPy array of shape {item.shape} among the device's arrays")
    return type(item)(map(_unwrapped, item)) if isinstance(item, list | tuple) and item else item
