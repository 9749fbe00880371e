"""Files are written atomically, checked when they are read, and never unpickled."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from scipy.io import savemat

from cuista import storage
from cuista.errors import FileError, InputError

ARRAY = np.arange(2000.0).reshape(40, 50)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file.h5"
    storage.write(path, storage.Record("cuista-problem", {"A": ARRAY, "deep/b": np.ones(3)}, {"pnz": 0.1, "k": [1, 2]}))
    return path


def test_a_record_comes_back_with_its_provenance(file):
    record = storage.read(file, "cuista-problem")
    np.testing.assert_array_equal(record.arrays["A"], ARRAY)
    np.testing.assert_array_equal(record.arrays["deep/b"], 1)
    assert record.attributes["pnz"] == 0.1
    assert record.attributes["k"] == [1, 2]
    assert {"format", "format_version", "cuista_version", "created", "command"} <= set(record.attributes)


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(file):
    before = file.read_bytes()

    def fail_half_way():
        with storage.replacing(file, overwrite=True) as new:
            new.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_what_is_in_the_way_or_not_there_is_said(file, tmp_path):
    for path, message in (
        (file, "exists already"),
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "f.h5", "does not exist"),
    ):
        with pytest.raises(FileError, match=message):
            storage.check_writable(path)


@pytest.mark.parametrize("keep", [0.99, 0.5, 0.01])
def test_a_truncated_file_is_called_damaged(file, keep):
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(FileError, match="damaged"):
        storage.read(file)


def test_a_flipped_bit_is_found_wherever_it_is(file):
    """In the data, in attributes, in names, in the proof, or in what HDF5 keeps for itself."""
    whole = file.read_bytes()
    places = {
        *range(512),
        *np.random.default_rng(0).integers(512, len(whole), 200),
        whole.find(ARRAY[20].tobytes()) + 3,
    }
    places |= {whole.find(name) for name in (b"pnz", b"deep", b"cuista-problem")}
    for place in sorted(places):
        data = bytearray(whole)
        data[place] ^= 1 << (place % 8)
        file.write_bytes(data)
        with pytest.raises(FileError, match=r"damaged: it.* is not what was written"):
            storage.read(file)


def test_a_file_without_a_proof_is_read_with_a_note_if_it_is_of_the_first_version(file, monkeypatch):
    file.write_bytes(file.read_bytes()[512:])
    with pytest.raises(FileError, match="damaged: its beginning is not what was written"):
        storage.read(file)
    with monkeypatch.context() as then:
        then.setattr("cuista.storage.records.__version__", "0.1.0")
        storage.write(file, storage.Record("cuista-problem", {"A": ARRAY}), overwrite=True)
    file.write_bytes(file.read_bytes()[512:])
    with pytest.warns(UserWarning, match=r"file.h5 has no proof that it is what was written"):
        np.testing.assert_array_equal(storage.read(file).arrays["A"], ARRAY)
    storage.read(file)  # it is said once


def test_a_record_is_an_hdf5_file_like_any_other(file):
    import h5py

    with h5py.File(file) as hdf5:
        np.testing.assert_array_equal(hdf5["deep/b"], 1)
        assert hdf5.attrs["pnz"] == 0.1
        assert hdf5.userblock_size == 512


def test_a_file_that_was_edited_is_refused(file):
    import h5py

    storage.read(file)
    with h5py.File(file, "a") as hdf5:
        hdf5.attrs["pnz"] = 0.2
    for read in (storage.read, storage.contents, storage.kind_of, storage.is_cuista, storage.load_arrays):
        with pytest.raises(FileError, match="damaged: it is not what was written"):
            read(file)


def test_other_files_are_named_as_what_they_are(file, tmp_path, monkeypatch):
    import h5py

    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as hdf5:
        hdf5["A"] = ARRAY
    text = tmp_path / "text.h5"
    text.write_text("not HDF5 at all")
    newer = tmp_path / "newer.h5"
    with monkeypatch.context() as later:
        later.setattr("cuista.storage.records.FORMAT_VERSION", 99)
        storage.write(newer, storage.Record("cuista-problem"))
    for path, message in (
        (foreign, "not one of cuista's"),
        (text, "not an HDF5 file"),
        (newer, "update cuista"),
        (tmp_path / "missing.h5", "does not exist"),
        (tmp_path, "cannot read"),
    ):
        with pytest.raises(FileError, match=message):
            storage.read(path)
    with pytest.raises(FileError, match=r"is a cuista-problem file; expected cuista-weight"):
        storage.read(file, "cuista-weight")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".h5"])
def test_arrays_go_out_and_come_back(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    storage.save_arrays(path, {"A": ARRAY})
    np.testing.assert_array_equal(storage.load_array(path, "A", "D"), ARRAY)
    with storage.opened_array(path, "A") as array:
        np.testing.assert_array_equal(array[3:5], ARRAY[3:5])


def test_the_key_decides_among_several_arrays(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, first=ARRAY, D=ARRAY + 1, other=ARRAY + 2)
    assert storage.load_array(path, "A", "D")[0, 0] == 1
    assert storage.load_array(path, "other")[0, 0] == 2
    with pytest.raises(FileError, match=r"holds first .40, 50") as error:
        storage.load_array(path, "A")
    assert error.value.options == ("key",)


def test_arrays_in_hdf5_have_a_proof_too(tmp_path):
    path = tmp_path / "a.h5"
    storage.save_arrays(path, {"A": ARRAY})
    data = bytearray(path.read_bytes())
    data[-9000] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileError, match="is not what was written"):
        storage.load_array(path)


def test_a_file_of_other_software_is_tried_where_no_status_of_processes_is_kept(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["A"] = ARRAY
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        np.testing.assert_array_equal(storage.load_array(tmp_path / "a.h5"), ARRAY)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_what_was_never_written_is_limited_for_the_whole_file(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in "abc":
            file.create_dataset(name, (5 << 20,), "f8")
    with pytest.raises(FileError, match="were never written"):
        storage.load_array(tmp_path / "a.h5", "a")


@pytest.mark.parametrize("ending", [".npz", ".mat", ".h5"])
def test_a_small_file_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch, ending):
    import h5py

    monkeypatch.setattr("cuista.storage.files.LARGE", 1 << 20)
    path, zeros = tmp_path / f"a{ending}", np.zeros((400, 500))
    if ending == ".npz":
        np.savez_compressed(path, A=zeros)
    elif ending == ".mat":
        savemat(path, {"A": zeros}, do_compression=True)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("A", data=zeros, compression="gzip", chunks=(400, 500))
    with pytest.raises(FileError, match="if it is right, save it without compression"):
        storage.load_arrays(path)


def test_of_several_arrays_only_the_one_that_is_asked_for_is_read(tmp_path, monkeypatch):
    import h5py

    storage.save_arrays(tmp_path / "a.h5", {"A": ARRAY, "other": ARRAY})
    read, real = [], h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda node, where: (read.append(node.name), real(node, where))[1])
    np.testing.assert_array_equal(storage.load_array(tmp_path / "a.h5", "A"), ARRAY)
    assert set(read) == {"/A"}


def test_a_matlab_7_3_file_is_read_with_its_axes_turned(tmp_path):
    import h5py

    path = tmp_path / "a.mat"
    with h5py.File(path, "w", userblock_size=512) as hdf5:
        hdf5["D"] = ARRAY.T
    with open(path, "r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file")
    np.testing.assert_array_equal(storage.load_array(path, "D"), ARRAY)


def test_pickles_are_never_loaded(tmp_path):
    for path in (tmp_path / "p.npy", tmp_path / "p.npz"):
        bad = np.array([{"a": 1}], dtype=object)
        np.save(path, bad, allow_pickle=True) if path.suffix == ".npy" else np.savez(path, x=bad)
        with pytest.raises(FileError, match="pickled"):
            storage.load_arrays(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_truncated_arrays_are_called_damaged(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    storage.save_arrays(path, {"A": ARRAY})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(FileError, match="damaged"):
        storage.load_array(path, "A")


def test_text_and_other_things_are_refused(tmp_path):
    (tmp_path / "a.npy").write_text("hello")
    with pytest.raises(FileError, match="is not a"):
        storage.load_arrays(tmp_path / "a.npy")
    savemat(tmp_path / "s.mat", {"A": "words"})
    with pytest.raises(InputError, match="real numbers"):
        storage.load_array(tmp_path / "s.mat")
    with pytest.raises(FileError, match="ending in"):
        storage.save_arrays(tmp_path / "a.txt", {"A": ARRAY})
    with pytest.raises(FileError, match="one array"):
        storage.save_arrays(tmp_path / "b.npy", {"A": ARRAY, "B": ARRAY})


# -- files that claim what they do not have ---------------------------------------------------------------------------


def hostile(path, kind):
    """Make a small HDF5 file whose array A is elsewhere, or larger than the file."""
    import h5py

    with h5py.File(path, "w") as hdf5:
        if kind == "virtual":
            layout = h5py.VirtualLayout((4, 4), "f8")
            layout[:] = h5py.VirtualSource(path, "A", (4, 4))  # itself
            hdf5.create_virtual_dataset("A", layout)
        elif kind == "external":
            path.with_name("secret").write_bytes(bytes(128))
            hdf5.create_dataset("A", (4, 4), "f8", external=[(path.with_name("secret"), 0, 128)])
        elif kind == "unwritten":
            hdf5.create_dataset("A", (2**31, 2**31), "f8", chunks=(2**10, 2**10))
        elif kind == "deflated":
            hdf5.create_dataset("A", (2**20, 2**20), "f8", chunks=(2**10, 2**10), compression="gzip")
        else:
            hdf5["A"] = h5py.SoftLink("/B") if kind == "soft" else h5py.ExternalLink("other.h5", "A")


@pytest.mark.parametrize("kind", ["virtual", "external", "unwritten", "deflated", "soft", "linked"])
def test_an_array_that_is_not_in_the_file_is_refused(tmp_path, kind):
    path = tmp_path / "a.h5"
    hostile(path, kind)
    said = {"virtual": "stored elsewhere", "external": "stored elsewhere", "soft": "no arrays", "linked": "no arrays"}
    for read in (storage.load_array, lambda path: storage.opened_array(path).__enter__()):
        with pytest.raises(FileError, match=said.get(kind, "is damaged: the array 'A' has .* bytes, and 0 are stored")):
            read(path)


def test_arrays_whose_parts_were_not_written_are_zeros(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as hdf5:
        hdf5.create_dataset("A", (500, 500), "f8", chunks=(100, 100), compression="gzip")[:100, :100] = 1
        hdf5.create_dataset("B", (500, 500), "f8")
        hdf5.create_dataset("words", (3,), h5py.string_dtype())
    arrays = storage.load_arrays(tmp_path / "a.h5")
    assert (arrays["A"].sum(), arrays["B"].sum()) == (100 * 100, 0)


def test_an_archive_may_hold_other_files_too(tmp_path):
    import zipfile

    np.savez(tmp_path / "a.npz", A=ARRAY)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("README.txt", "what this is")
    np.testing.assert_array_equal(storage.load_array(tmp_path / "a.npz", "A"), ARRAY)


def test_a_compressed_array_is_read(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as hdf5:
        hdf5.create_dataset("A", data=np.zeros((500, 500)), compression="gzip")
        hdf5.create_dataset("empty", data=np.zeros((0, 5)))
    arrays = storage.load_arrays(tmp_path / "a.h5")
    assert arrays["A"].shape == (500, 500)
    assert arrays["empty"].shape == (0, 5)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_small_file_that_claims_to_be_huge_is_refused_before_memory_is_taken(tmp_path, suffix):
    import zipfile

    path = tmp_path / f"a{suffix}"
    header = {"descr": "<f8", "fortran_order": False, "shape": (2**31, 2**20)}
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(800))
    if suffix == ".npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(tmp_path / "a.npy", "A.npy")
    with pytest.raises(FileError, match=r"is damaged: an array of shape \(2147483648, 1048576\) takes .* bytes"):
        storage.load_array(path)
