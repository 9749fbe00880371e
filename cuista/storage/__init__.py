"""Files: atomic writing, cuista's own HDF5 files, and arrays in other formats."""

from cuista.storage.arrays import described, has_arrays, load_array, load_arrays, opened_array, save_arrays
from cuista.storage.files import (
    check_writable,
    claimed,
    complete,
    identity_of,
    open_input,
    remove,
    replacing,
    sha256,
    write_checked,
)
from cuista.storage.portable import Portable
from cuista.storage.proof import has_proof
from cuista.storage.records import (
    Record,
    contents,
    creating,
    datasets,
    is_cuista,
    is_hdf5,
    kind_of,
    opened,
    packed,
    printable,
    read,
    unpacked,
    write,
)

__all__ = [
    "Portable",
    "Record",
    "check_writable",
    "claimed",
    "complete",
    "contents",
    "creating",
    "datasets",
    "described",
    "has_arrays",
    "has_proof",
    "identity_of",
    "is_cuista",
    "is_hdf5",
    "kind_of",
    "load_array",
    "load_arrays",
    "open_input",
    "opened",
    "opened_array",
    "packed",
    "printable",
    "read",
    "remove",
    "replacing",
    "save_arrays",
    "sha256",
    "unpacked",
    "write",
    "write_checked",
]
