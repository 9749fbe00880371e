"""Arrays from and to .npy, .npz, .mat and .h5 files. Nothing is ever unpickled."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cuista.checks import Array, as_real
from cuista.errors import FileError, InputError
from cuista.storage.files import replacing
from cuista.storage.records import is_hdf5, open_hdf5


def load_array(path: str | os.PathLike[str], *names: str, key: str | None = None) -> Array:
    """One array of numbers from .npy, .npz, .mat or .h5.

    Parameters
    ----------
    path
        The file; its content, not its name, says what it is.
    names
        The names to look for, in order, in a file that holds several arrays. A file with one array needs none.
    key
        The name that the array must have; the others are then not looked for.

    Raises
    ------
    FileError
        If the file is missing, damaged, of another kind, or has no such array (the message lists what it has).
    InputError
        If the array does not hold real numbers.
    """
    arrays = load_arrays(path)
    found = _chosen(path, {name: value.shape for name, value in arrays.items()}, names, key)
    return as_real(arrays[found], f"{path} ({found})")


@contextlib.contextmanager
def opened_array(path: str | os.PathLike[str], *names: str, key: str | None = None) -> Iterator[Any]:
    """One array of a file, as `load_array`, but read by slices where the format allows it (.npy, .h5).

    Raises
    ------
    FileError, InputError
        As `load_array`.
    """
    with contextlib.ExitStack() as stack:
        array: Any
        if is_hdf5(path):
            import h5py

            file = stack.enter_context(open_hdf5(path))
            shapes: dict[str, tuple[int, ...]] = {}

            def visit(name: str, node: Any) -> None:
                if isinstance(node, h5py.Dataset):
                    shapes[name] = node.shape

            file.visititems(visit)
            array = file[_chosen(path, shapes, names, key)]
        elif Path(path).suffix.lower() == ".npy" and key is None:
            try:
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            except (ValueError, OSError, EOFError):
                array = load_array(path, *names)  # says what is wrong with it
        else:
            array = load_array(path, *names, key=key)
        if array.dtype.kind not in "fiub":
            raise InputError(f"{path} has dtype {array.dtype}; expected real numbers")
        yield array


def load_arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    """All arrays of a .npy, .npz, .mat or .h5 file by name; that of a .npy file is called `array`.

    Raises
    ------
    FileError
        As `load_array`.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise FileError(f"{path} does not exist") from None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}") from error
    try:
        if head.startswith((b"\x93NUMPY", b"PK")):
            with open(path, "rb") as file:
                loaded = np.load(file, allow_pickle=False)
                return {"array": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
        if head.startswith(b"MATLAB 5.0"):
            from scipy.io import loadmat

            return {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
        if is_hdf5(path) or head.startswith(b"MATLAB 7.3"):
            return _load_hdf5_arrays(path, transpose=head.startswith(b"MATLAB 7.3"))
    except FileError:
        raise
    except ValueError as error:
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise FileError(
                f"{path} holds pickled Python objects, which could run any code: cuista never loads them. "
                "Save plain arrays of numbers instead"
            ) from error
        raise FileError(f"{path} is damaged: {error}") from error
    except (OSError, EOFError, zipfile.BadZipFile, TypeError, KeyError, NotImplementedError) as error:
        raise FileError(f"{path} is damaged: {error}") from error
    raise FileError(f"{path} is not a .npy, .npz, .mat or .h5 file")


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Array], *, overwrite: bool = False) -> None:
    """Write arrays as .npy (one array), .npz, .mat or .h5, by the ending of the name, atomically.

    Raises
    ------
    FileError
        As `replacing`; or if the ending is none of these, or .npy is to hold several arrays.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".npy", ".npz", ".mat", ".h5"):
        raise FileError(f"cannot tell what to write to {path}: expected a name ending in .npy, .npz, .mat or .h5")
    if suffix == ".npy" and len(arrays) != 1:
        raise FileError(f"{path}: a .npy file holds one array, and there are {_listed(arrays)}; write .npz or .mat")
    with replacing(path, overwrite=overwrite) as temporary:
        if suffix == ".h5":
            import h5py

            with h5py.File(temporary, "w") as hdf5:
                for name, array in arrays.items():
                    hdf5[name] = array
            return
        with open(temporary, "wb") as file:
            if suffix == ".npy":
                np.save(file, next(iter(arrays.values())), allow_pickle=False)
            elif suffix == ".npz":
                np.savez(file, allow_pickle=False, **arrays)
            else:
                from scipy.io import savemat

                savemat(file, dict(arrays), oned_as="column")  # type: ignore[arg-type]


def _load_hdf5_arrays(path: str | os.PathLike[str], transpose: bool) -> dict[str, Array]:
    import h5py

    with open_hdf5(path) as file:
        arrays = {}

        def visit(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset):
                arrays[name] = node[()].T if transpose else node[()]  # MATLAB stores columns first

        file.visititems(visit)
    return arrays


def _listed(arrays: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {value.shape}" for name, value in arrays.items()) or "no arrays"


def _chosen(
    path: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]], names: tuple[str, ...], key: str | None
) -> str:
    """Which of a file's arrays is meant."""
    found = next((name for name in ((key,) if key else names) if name in shapes), None)
    if found is None and len(shapes) == 1 and key is None:
        (found,) = shapes
    if found is None:
        held = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no arrays"
        wanted = " or ".join(map(repr, (key,) if key else names)) or "a single array"
        raise FileError(f"{path} holds {held}; expected {wanted}. Say which array is meant", option="key")
    return found
