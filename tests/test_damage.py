"""Damaged files of every kind are refused in one line, or read as they were: never wrong, and without a crash.

Each damaged file is read by a process of its own, with limits on time and memory.
"""

from __future__ import annotations

import functools
import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_array, save_npz
from test_files import FILES, LOADERS
from test_formats import KINDS, numbers, write_tiff
from test_pictures import save, scene

import cuista
from cuista import storage
from cuista.counter import Key
from cuista.data.images import ImageSet, PatchSet, prepare_images
from cuista.data.pictures import Pictures

OUTCOMES = ("refused", "as it was", "other values", "wrong", "internal error", "crashed", "hung", "over memory")
ALLOWED = {"refused", "as it was"}
# Files without a checksum of their own can hold other numbers, and nobody can tell.
UNPROTECTED = {*ALLOWED, "other values"}
SECONDS, MEMORY = 40, 3 << 30


def digest_of(value):
    """The hash of arrays, numbers and texts, in dictionaries and lists."""
    if isinstance(value, dict):
        return digest_of([[name, value[name]] for name in sorted(value)])
    if isinstance(value, list | tuple):
        return hashlib.sha256("".join(map(digest_of, value)).encode()).hexdigest()
    if isinstance(value, np.ndarray):
        return hashlib.sha256(repr((value.shape, value.dtype)).encode() + value.tobytes()).hexdigest()
    return hashlib.sha256(repr(value).encode()).hexdigest()


def read_ours(load, path):
    load(path)
    record = storage.read(path)
    return digest_of([record.arrays, record.attributes])


def read_pictures(path):
    sets = {"cuista-images": ImageSet, "cuista-patches": PatchSet}
    found = sets[storage.kind_of(path, *sets)](path, "train")
    if isinstance(found, ImageSet):
        return digest_of([found.sha256, [[name, pixels] for name, pixels in found.pictures()]])
    return digest_of([found.sha256, found.draw(Key(0, 1), 500)])


def read_slices(path):
    with storage.opened_array(path, "A") as array, storage.complete(path):
        return digest_of([np.asarray(array[first : first + 30]) for first in range(0, array.shape[0], 30)])


def read_all_pages(path):
    pictures = Pictures(path)
    return digest_of([[picture.channels, picture.depth, picture.alpha] for picture in pictures])


def loader_of(path):
    return LOADERS.get(storage.kind_of(path), cuista.load)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """A file of each kind, how it is read, and the outcomes that are allowed if it is damaged."""
    folder = tmp_path_factory.mktemp("kinds")
    made = {}

    def add(name, path, read, allowed):
        made[name] = path, read, allowed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the files of 0.1.0 have no proof
        for path in FILES:
            kind = storage.kind_of(path)
            pictures = kind in ("cuista-images", "cuista-patches")
            read = read_pictures if pictures else functools.partial(read_ours, loader_of(path))
            add(f"{path.stem} of 0.1.0", path, read, UNPROTECTED)
            if not pictures:
                record = storage.read(path)
                ours = folder / path.name
                storage.write(ours, storage.Record(kind, record.arrays, record.attributes))
                add(path.stem, ours, read, ALLOWED)
    (folder / "pictures").mkdir()
    for number in range(2):
        save(folder / f"pictures/{number}.png", scene((140, 150), seed=number))
    for name, patches in (("cuista-images", None), ("cuista-patches", 8)):
        path = folder / f"{name}.h5"
        prepare_images(folder / "pictures", path, split=(2, 0, 0), patches=patches, per_image=100)
        add(name, path, read_pictures, ALLOWED)
    rng = np.random.default_rng(0)
    arrays = {"A": rng.standard_normal((40, 60)), "b": np.arange(7)}
    for ending in (".npz", ".mat", ".h5"):
        storage.save_arrays(folder / f"arrays{ending}", arrays)
        allowed = ALLOWED if ending == ".npz" else UNPROTECTED
        add(f"arrays{ending}", folder / f"arrays{ending}", read_all, allowed)
    np.savez_compressed(folder / "compressed.npz", **arrays)
    add("compressed.npz", folder / "compressed.npz", read_all, ALLOWED)
    savemat(folder / "compressed.mat", arrays, do_compression=True)
    add("compressed.mat", folder / "compressed.mat", read_all, UNPROTECTED)
    storage.save_arrays(folder / "array.npy", {"A": arrays["A"]})
    add("array.npy", folder / "array.npy", read_all, UNPROTECTED)
    add("slices of a .npy", folder / "array.npy", read_slices, UNPROTECTED)
    add_foreign_arrays(folder, add, np.round(arrays["A"]) * (np.abs(arrays["A"]) > 1))
    with h5py.File(folder / "chunked.h5", "w") as file:
        file.create_dataset("group/A", data=np.round(arrays["A"], 1), chunks=(7, 9), compression="gzip", shuffle=True)
        file["group/A"].attrs["unit"] = "V"
        file["words"] = ["a", "text"]
    add("chunked.h5", folder / "chunked.h5", lambda path: digest_of(storage.load_array(path, "group/A")), UNPROTECTED)
    with h5py.File(folder / "sliced.h5", "w", libver="latest") as file:
        file.create_dataset("A", data=arrays["A"], chunks=(7, 9), compression="gzip")
    add("slices of a .h5", folder / "sliced.h5", read_slices, UNPROTECTED)
    for ending, allowed in ((".png", ALLOWED), (".jpg", UNPROTECTED), (".tif", UNPROTECTED), (".bmp", UNPROTECTED)):
        save(folder / f"picture{ending}", scene((60, 70)))
        add(f"picture{ending}", folder / f"picture{ending}", read_all_pages, allowed)
    pages = np.stack([scene((60, 70), seed) for seed in range(3)])
    for name in ("12 bits, packed", "16 bits", "16 bits, LZW", "16 bits, tiles", "BigTIFF", "float32"):
        dtype, white, options = KINDS[name]
        path = folder / f"pages of {name}.tif"
        write_tiff(path, numbers(pages, dtype, white), photometric="minisblack", **options)
        add(path.name, path, read_all_pages, UNPROTECTED)
    tifffile.imwrite(folder / "ImageJ.tif", numbers(pages, "u2", 65535), imagej=True, truncate=True)
    add("ImageJ.tif", folder / "ImageJ.tif", read_all_pages, UNPROTECTED)
    frames = [Image.fromarray(page) for page in numbers(pages, "u1", 255)]
    for ending, allowed in ((".png", ALLOWED), (".gif", UNPROTECTED), (".webp", UNPROTECTED)):
        path = folder / f"frames{ending}"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
        add(path.name, path, read_all_pages, allowed)
    return made


def add_foreign_arrays(folder, add, A):
    """Add files of other software with the matrix A, which has many zeros."""
    matrix = csc_array(A)
    for form in ("csr", "bsr", "coo", "dia"):
        save_npz(folder / f"{form}.npz", matrix.asformat(form))
        add(f"{form}.npz of SciPy", folder / f"{form}.npz", read_all, ALLOWED)
    for name, options in (("sparse.mat", {"do_compression": True}), ("version4.mat", {"format": "4"})):
        savemat(folder / name, {"A": A, "s": matrix, "words": "text"}, **options)
        add(name, folder / name, read_all, UNPROTECTED)
    np.savetxt(folder / "text.csv", A, "%g", delimiter=",", header="a comment")
    add("text.csv", folder / "text.csv", read_all, UNPROTECTED)
    add_complex_arrays(folder, add, A[:20] + 1j * A[20:])
    with h5py.File(folder / "groups.h5", "w") as file:
        write_sparse(file.create_group("matlab"), matrix, ("data", "ir", "jc"), MATLAB_sparse=np.uint64(len(A)))
        group = file.create_group("octave")
        group.attrs["OCTAVE_NEW_FORMAT"] = np.uint8(1)
        group["type"], group["value"] = np.bytes_("matrix"), A.T
    add("groups.h5", folder / "groups.h5", read_all, UNPROTECTED)


def add_complex_arrays(folder, add, A):
    """Add files of ours and of other software with a complex matrix."""
    storage.write(folder / "complex record.h5", storage.Record("cuista-problem", {"A": A.astype(np.complex64)}))
    add("complex record", folder / "complex record.h5", lambda path: read_ours(storage.read, path), ALLOWED)
    for ending, allowed in ((".npy", UNPROTECTED), (".npz", ALLOWED), (".mat", UNPROTECTED)):
        storage.save_arrays(folder / f"complex{ending}", {"A": A})
        add(f"complex{ending}", folder / f"complex{ending}", read_all, allowed)
    lines = "\n".join(",".join(map(str, row)) for row in A.tolist())
    (folder / "complex.csv").write_text(lines)
    add("complex.csv", folder / "complex.csv", read_all, UNPROTECTED)
    parts = np.zeros(A.shape, [("real", "f8"), ("imag", "f8")])
    parts["real"], parts["imag"] = A.real, A.imag
    with h5py.File(folder / "parts.h5", "w") as file:
        file["A"], matrix = parts, csc_array(A)
        write_sparse(file.create_group("s"), matrix, ("data", "ir", "jc"), MATLAB_sparse=np.uint64(len(A)))
    add("parts.h5", folder / "parts.h5", read_slices, UNPROTECTED)


def write_sparse(group, matrix, names, **attributes):
    for name, part in zip(names, (matrix.data, matrix.indices, matrix.indptr), strict=True):
        group[name] = part
    group.attrs.update(attributes)


def read_all(path):
    return digest_of(storage.load_arrays(path))


def damaged(data, rng):
    """The bytes of a file with damage of one of several sorts. HDF5 keeps much of what it must believe at the front."""
    data, size = bytearray(data), len(data)
    front = rng.random() < 0.5
    place = int(rng.integers(min(size, 4096) if front else size))
    length = int(rng.integers(1, 40))
    sort = rng.integers(8)
    if sort <= 1:
        data[place] ^= 1 << int(rng.integers(8))
    elif sort == 2:
        data[place : place + 8] = bytes(len(data[place : place + 8]))
    elif sort == 3:
        data[place : place + length] = b"\xff" * len(data[place : place + length])
    elif sort == 4:
        data[place : place + length] = rng.bytes(len(data[place : place + length]))
    elif sort == 5:
        del data[place:]
    elif sort == 6:
        data += rng.bytes(length)
    else:
        other = int(rng.integers(size))
        part, theirs = data[place : place + length], data[other : other + length]
        data[place : place + len(part)], data[other : other + len(theirs)] = (theirs + part)[: len(part)], theirs
    return bytes(data)


def outcome_of(read, path, expected, expects_other):
    """Read a damaged file in a process of its own, and return the outcome and what was said."""
    into, out_of = os.pipe()[::-1]
    child = os.fork()
    if child == 0:
        _read_in_child(read, path, into)
    os.close(into)
    begin = time.monotonic()
    with open(out_of, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status in (-signal.SIGALRM, -signal.SIGXCPU) or time.monotonic() - begin > SECONDS:
        return "hung", said
    if status != 0:
        return "crashed", f"{status} {said}"
    kind, said = said.split(" ", 1)
    if kind != "read":
        return kind.replace("_", " "), said
    if said == expected:
        return "as it was", said
    return ("other values" if expects_other else "wrong"), said


def _read_in_child(read, path, pipe):
    try:
        with open("/proc/self/statm") as statm:
            now = int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
        signal.alarm(SECONDS)
        warnings.simplefilter("ignore")
        try:
            said = f"read {read(path)}"
        except cuista.CuistaError as error:
            said = f"refused {error}"
            if "\n" in str(error) or path.name not in str(error):
                said = f"internal_error not one line that names the file: {error}"
        except MemoryError as error:
            said = f"over_memory {error}"
        except BaseException as error:
            said = f"internal_error {type(error).__name__}: {error}"
        os.write(pipe, said.encode(errors="replace")[:60_000])
    finally:
        os._exit(0)


def test_damaged_files_are_refused_or_read_as_they_were(kinds, tmp_path, request):
    slow = request.config.getoption("--slow")
    times, table, bad = (40 if slow else 1), {}, []
    for name, (path, read, allowed) in kinds.items():
        rng = np.random.default_rng(len(name))
        data, expected = path.read_bytes(), read(path)
        copy, counts = tmp_path / f"damaged{path.suffix}", Counter()
        for _ in range(times):
            mutant = damaged(data, rng)
            copy.write_bytes(mutant)
            outcome, said = outcome_of(read, copy, expected, "other values" in allowed)
            counts[outcome] += 1
            if outcome not in allowed:
                bad.append(f"{name}: {outcome}: {said}")
        table[name] = counts
    if slow:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print_table(table)
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("name", ["cuista-weight", pytest.param("cuista-images", marks=pytest.mark.slow)])
def test_a_process_that_has_met_damage_ends_as_others_do(kinds, tmp_path, name):
    """The HDF5 library must not find at its end that memory of its own was kept."""
    path, _, _ = kinds[name]
    data, copy = path.read_bytes(), tmp_path / "damaged.h5"
    code = "from cuista.cli import main; main()"
    for place, command in ((520, "check"), (700, "info"), (len(data) // 2, "check"), (len(data) - 100, "info")):
        copy.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        words = [sys.executable, "-c", code, command, str(copy)]
        process = subprocess.run(words, capture_output=True, text=True, check=False)
        assert process.returncode == 1, process.stderr
        assert "is damaged: it is not what was written" in process.stdout + process.stderr


def print_table(table):
    width = max(map(len, table))
    print("\n" + " " * width, "  tried", *OUTCOMES, sep="  ")
    for name, counts in [*table.items(), ("all", sum(table.values(), Counter()))]:
        cells = [f"{counts[outcome]:{len(outcome)}d}" for outcome in OUTCOMES]
        print(name.ljust(width), f"{counts.total():7d}", *cells, sep="  ")
