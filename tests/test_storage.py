"""Files are written atomically, checked when they are read, and never unpickled."""

from __future__ import annotations

import signal
import struct
import zlib

import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_array, save_npz

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


# -- files of others --------------------------------------------------------------------------------------------------

SMALL = np.round(np.random.default_rng(3).standard_normal((4, 5)), 3) * (np.arange(20).reshape(4, 5) % 3 != 0)


def words_of(matrix, separator, mark="."):
    return "\n".join(separator.join(f"{value!r}".replace(".", mark) for value in row) for row in matrix.tolist())


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        (words_of(SMALL, ","), []),
        ("\n# a comment\n" + words_of(SMALL, ", ") + "\n\n", []),
        ("% of MATLAB\r\n" + words_of(SMALL, "\t").replace("\n", "\r\n"), []),
        (words_of(SMALL, "   "), []),
        (words_of(SMALL, ";", ","), []),
        (words_of(SMALL, "\t", ","), []),
        (words_of(SMALL, " ", ","), []),
        ("\ufeffa;b;c;d;e\n" + words_of(SMALL, ";", ","), ["line 1 is skipped as names: 'a;b;c;d;e'"]),
        ("sep=;\n" + words_of(SMALL, ";"), []),
        (words_of(SMALL, ",").replace("\n", ",\n") + ",", []),
        ('"a","b","c","d","e"\n' + words_of(SMALL, '","').replace("\n", '"\n"').join('""'), ["line 1 is skipped"]),
        ("0,1,2,3,4\n" + words_of(SMALL, ","), ["line 1 is skipped as names: '0,1,2,3,4'"]),
        (
            ",0,1,2,3,4\n" + "\n".join(f"{i},{row}" for i, row in enumerate(words_of(SMALL, ",").split("\n"))),
            ["line 1 is skipped as names", "the first column is skipped, which has no name: '0, …, 3'"],
        ),
        (
            "v w x y z\n" + "\n".join(f'"s{i}" {row}' for i, row in enumerate(words_of(SMALL, " ").split("\n"))),
            ["line 1 is skipped as names", "the first column is skipped, which has no name: 's0, …, s3'"],
        ),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_text_is_read_as_spreadsheets_and_programs_write_it(tmp_path, text, warnings, encoding, recwarn):
    path = tmp_path / "a.csv"
    path.write_bytes(text.removeprefix("\ufeff" * (encoding == "utf-16")).encode(encoding))
    np.testing.assert_array_equal(storage.load_array(path, "A"), SMALL)
    said = [str(warning.message) for warning in recwarn]
    assert [warning in text for warning, text in zip(warnings, said, strict=True)] == [True] * len(warnings)


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        ("0,1,2\n3,4,5\n", "the first line counts 0, 1, 2, … and is read as data"),
        ("1,7,7\n2,7,7\n3,7,7\n", "the first column counts 1, 2, 3, … and is read as data"),
        ("1,5\n12,25\n", "line 1: '1,5' is read as two numbers; if that is a decimal comma, write a point"),
    ],
)
def test_what_is_read_as_it_is_may_be_meant_otherwise(tmp_path, text, doubt):
    (tmp_path / "a.txt").write_text(text)
    with pytest.warns(UserWarning, match=doubt):
        array = storage.load_array(tmp_path / "a.txt")
    np.testing.assert_array_equal(array, np.loadtxt(tmp_path / "a.txt", delimiter=","))


def test_one_number_in_each_line_is_a_vector(tmp_path):
    (tmp_path / "a.txt").write_text("1.5\n-2\n1e3\n")
    np.testing.assert_array_equal(storage.load_array(tmp_path / "a.txt"), [1.5, -2, 1000])
    (tmp_path / "a.txt").write_text("1.5 -2 1e3\n")
    np.testing.assert_array_equal(storage.load_array(tmp_path / "a.txt"), [[1.5, -2, 1000]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n\n3,x\n", "line 3, column 2 is 'x'; expected a number"),
        ("1,2\n3,\n", "line 2, column 2 is empty; expected a number"),
        ("1,2\n3,4,5\n", r"line 2 has 3 columns, and line 1 has 2 \(separated by commas\)"),
        ("1 2 3\n4 5\n", r"line 2 has 2 columns, and line 1 has 3 \(separated by blanks\)"),
        ("1,5;2,5\n1,5;2,5\n1.5;2\n", "line 3, column 1 is '1.5'; .* others have decimal commas"),
        ("1,5;2,5\n1.5;2.5\n", "line 1, column 1 is '1,5'; .* others have decimal points"),
        ("1_000,2\n3,4\n", "line 1, column 1 is '1_000'"),
        ("a,b\nc,d\n1,2\n", "line 2, column 1 is 'c'; .* One line of names may come first; begin others with #"),
        ("1,2.x\n3,4\n", "line 1, column 2 is '2.x'"),
        ("a,b\n", "line 1, column 1 is 'a'"),
        ("", "holds no numbers"),
        ("# nothing\n\n", "holds no numbers"),
        ("1,2\n3,\0", "is not a text file: its byte 6 is zero"),
        ("1+2i,3\n", "line 1, column 1 is '1\\+2i': complex numbers are not supported"),
        (" (1.0e+00+-2.0e+00j) (1e0+1e0j)\n", "line 1, column 1 is .*: complex numbers are not supported"),
    ],
)
def test_wrong_text_is_named_by_line_and_column(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(FileError, match=message):
        storage.load_array(tmp_path / "a.csv")


def octave_variable(file, name, kind, value):
    """Write a variable as Octave's `save -hdf5` does."""
    group = file.create_group(name)
    group.attrs["OCTAVE_NEW_FORMAT"] = np.uint8(1)
    group["type"] = np.bytes_(kind)
    if isinstance(value, dict):
        for part, array in value.items():
            group[f"value/{part}"] = array
    else:
        group["value"] = value


def sparse_parts(*names):
    matrix = csc_array(SMALL)
    return dict(zip(names, (matrix.data, matrix.indices, matrix.indptr), strict=True))


def foreign(path, name):
    """Write SMALL as `A`, or as the only array, as other software does."""
    import h5py

    if name in ("csr", "csc", "coo", "bsr", "dia"):
        save_npz(path / "a.npz", csc_array(SMALL).asformat(name))
        return path / "a.npz"
    if name.startswith("version"):
        savemat(path / "a.mat", {"A": csc_array(SMALL) if "sparse" in name else SMALL, "s": "text"}, format=name[8])
        return path / "a.mat"
    with h5py.File(path / "a.h5", "w", userblock_size=512) as file:
        if name == "7.3":
            file["A"] = SMALL.T
            file["A"].attrs["MATLAB_class"] = np.bytes_("double")
        elif name == "7.3 sparse":
            for part, array in sparse_parts("data", "ir", "jc").items():
                file[f"A/{part}"] = array
            file["A"].attrs.update({"MATLAB_class": np.bytes_("double"), "MATLAB_sparse": np.uint64(4)})
        elif name == "octave":
            octave_variable(file, "A", "matrix", SMALL.T)
            octave_variable(file, "s", "string", np.zeros((4, 1), np.int8))
            octave_variable(file, "st", "scalar struct", {"A/value": SMALL})
        elif name == "octave sparse":
            octave_variable(file, "A", "sparse matrix", {**sparse_parts("data", "ridx", "cidx"), "nr": 4, "nc": 5})
        elif name == "julia":
            file["A"] = SMALL.T
        elif name == "pandas":
            file["A/block0_values"], file["A/axis0"], file["A/axis1"] = SMALL, np.arange(5), np.arange(4)
            file["A"].attrs["pandas_type"] = "frame"
    with open(path / "a.h5", "r+b") as raw:
        raw.write({"7": b"MATLAB 7.3 MAT-file", "j": b"HDF5-based Julia Data Format, version 0.2"}.get(name[0], b""))
    return path / "a.h5"


FOREIGN = ["csr", "csc", "coo", "bsr", "dia", "version 4", "version 4 sparse", "version 5", "version 5 sparse", "7.3"]
FOREIGN += ["7.3 sparse", "octave", "octave sparse", "julia", "pandas"]


@pytest.mark.parametrize("name", FOREIGN)
def test_the_arrays_of_other_software_are_read_as_they_were_meant(tmp_path, name):
    path = foreign(tmp_path, name)
    np.testing.assert_array_equal(storage.load_array(path, "A"), SMALL)
    with storage.opened_array(path, "A") as array:
        np.testing.assert_array_equal(array[1:3], SMALL[1:3])
        np.testing.assert_array_equal(array[:, 2:4], SMALL[:, 2:4])
    if name == "octave":
        np.testing.assert_array_equal(storage.load_array(path, key="A/value"), SMALL)
        assert storage.described(path) == "A (4, 5), s (text), st (a scalar struct)"


def test_what_is_no_array_of_numbers_is_passed_over_and_described(tmp_path):
    import h5py

    h5, npz, mat = tmp_path / "a.h5", tmp_path / "a.npz", tmp_path / "a.mat"
    with h5py.File(h5, "w") as file:
        file["A"], file["units"], file["rate"], file["group/other"] = SMALL, "volt", 8000.0, np.ones(3)
        file["table"] = np.zeros(3, [("a", "f8"), ("b", "i4")])
        file.create_dataset("ragged", (2,), h5py.vlen_dtype(np.float64))
        file.create_dataset("elsewhere", (4, 4), "f8", external=[(tmp_path / "gone", 0, 128)])
    np.savez(npz, A=SMALL, units="volt", meta=np.array({"a": 1}, dtype=object), day=np.datetime64("2020-01-01"))
    savemat(mat, {"A": SMALL, "units": "volt", "s": {"a": 1}, "c": np.array([1, "a"], dtype=object)})
    for path, said in (
        (h5, {"units": "text", "table": "a table with the columns a, b", "ragged": "a list of arrays"}),
        (h5, {"group": "a group; .* Name an array in it, such as group/other"}),
        (npz, {"units": "text", "meta": "pickled Python objects; .* could run any code", "day": "dates"}),
        (mat, {"units": "text", "s": "a struct; .* Save its field", "c": "a cell array"}),
    ):
        np.testing.assert_array_equal(storage.load_array(path, "A"), SMALL)
        for key, what in said.items():
            with pytest.raises(InputError, match=f"{key} in .* is {what}".replace("; .* ", "; expected an array .*")):
                storage.load_array(path, key=key)
    with pytest.raises(FileError, match="stored elsewhere"):
        storage.load_array(h5, key="elsewhere")
    np.savez(npz, Phi=SMALL, rate=8000.0, units="volt")
    np.testing.assert_array_equal(storage.load_array(npz, "A"), SMALL)
    np.savez(npz, Phi=SMALL, Psi=SMALL, units="volt")
    with pytest.raises(FileError, match=r"holds Phi \(4, 5\), Psi \(4, 5\), units \(text\); expected 'A'. Choose one"):
        storage.load_array(npz, "A")
    np.savez(npz, A=np.array([{}], dtype=object), b=SMALL)  # b may be something else
    with pytest.raises(InputError, match=r"A in .* is pickled Python objects"):
        storage.load_array(npz, "A")


def test_complex_arrays_are_refused_with_a_reason_in_every_format(tmp_path):
    import h5py

    np.save(tmp_path / "a.npy", SMALL + 1j)
    np.savez(tmp_path / "a.npz", A=SMALL + 1j)
    save_npz(tmp_path / "sparse.npz", csc_array(SMALL + 0j))
    for version in "45":
        savemat(tmp_path / f"{version}.mat", {"A": SMALL + 1j}, format=version)
    parts = np.zeros((4, 5), [("real", "f8"), ("imag", "f8")])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["A"], file["parts"] = SMALL + 1j, parts
    for path in (*tmp_path.iterdir(), tmp_path / "a.h5"):
        key = "parts" if path.suffix == ".h5" else None
        for read in (storage.load_array, lambda *a, **k: storage.opened_array(*a, **k).__enter__()):
            with pytest.raises(InputError, match=r"complex numbers are not supported .* planned") as error:
                read(path, "A", key=key)
            assert path.name in str(error.value)


def test_files_of_octave_in_its_own_formats_say_how_to_save_them(tmp_path):
    path = tmp_path / "data.mat"
    for text, how in (
        (b"# Created by Octave 7.3.0\n# name: Phi\n# type: matrix\n# rows: 1\n", "as text, .* save -v7 data.mat Phi$"),
        (b"Octave-1-L\0\1\0\0\0A", "in its binary format, .* save -v7 data.mat A$"),
        (b"\x1f\x8b\x08\0", "is compressed by gzip"),
    ):
        path.write_bytes(text)
        with pytest.raises(FileError, match=how):
            storage.load_array(path, "A")


def test_locked_files_and_missing_plugins_are_not_called_damage(tmp_path, monkeypatch):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["A"] = SMALL
    for error, message in (
        (BlockingIOError(11, "unable to lock file"), "is in use by another program"),
        (OSError(37, "unable to lock file, errno = 37"), "set the environment variable HDF5_USE_FILE_LOCKING=FALSE"),
        (OSError("file is already open for write"), "is open for writing in another program"),
        (OSError("required filter 'zstd' is not registered"), "needs a plugin of the HDF5 library"),
    ):

        def fail(*arguments, error=error, **options):
            raise error

        monkeypatch.setattr(h5py, "File", fail)
        with pytest.raises(FileError, match=message) as raised:
            storage.load_array(tmp_path / "a.h5")
        assert "damaged" not in str(raised.value)


@pytest.mark.parametrize(
    "parts",
    [
        {"format": b"csr", "indices": [0, 10**8, 1], "indptr": [0, 1, 2, 3, 3]},
        {"format": b"csc", "indices": [0, -7, 1], "indptr": [0, 1, 2, 3, 3, 3]},
        {"format": b"csr", "indices": [0, 1, 2], "indptr": [0, 10**9, 2, 3, 3]},
        {"format": b"coo", "row": [0, 1, 9], "col": [0, 1, 2]},
        {"format": b"bsr", "data": np.ones((2, 2, 2)), "indices": [0, 10**8], "indptr": [0, 1, 2]},
    ],
)
def test_indices_beyond_a_sparse_matrix_are_refused(tmp_path, parts):
    np.savez(tmp_path / "a.npz", **{"shape": [4, 5], "data": np.ones(3), **parts})
    with pytest.raises(FileError, match="is damaged"):
        storage.load_array(tmp_path / "a.npz")


def test_a_sparse_matrix_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("cuista.storage.files.LARGE", 1 << 20)
    matrix = csc_array((np.ones(1), ([3], [4])), (1000, 2000))
    save_npz(tmp_path / "a.npz", matrix, compressed=False)
    for version in "45":
        savemat(tmp_path / f"{version}.mat", {"A": matrix}, format=version)
    for path in tmp_path.iterdir():
        with pytest.raises(FileError, match="fill the memory"):
            storage.load_array(path)


def test_a_variable_of_matlab_that_unpacks_to_more_than_it_claims_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("cuista.storage.files.LARGE", 1 << 20)
    savemat(tmp_path / "a.mat", {"A": np.ones((2, 2))})
    data = (tmp_path / "a.mat").read_bytes()
    packed = zlib.compress(data[128:] + bytes(4 << 20))
    (tmp_path / "a.mat").write_bytes(data[:128] + struct.pack("<2I", 15, len(packed)) + packed)
    with pytest.raises(FileError, match="fill the memory"):
        storage.load_array(tmp_path / "a.mat")


@pytest.mark.parametrize("place", [4, 8, 16])
def test_a_version_4_file_whose_header_lies_comes_to_an_end(tmp_path, place):
    savemat(tmp_path / "a.mat", {"a": np.ones(3), "b": SMALL}, format="4")
    data = bytearray((tmp_path / "a.mat").read_bytes())
    second = 20 + 2 + 3 * 8
    for value in (-1, -(2**31), 2**31 - 1):
        struct.pack_into("<i", data, second + place, value)
        (tmp_path / "a.mat").write_bytes(data)
        with pytest.raises(FileError, match="is damaged"):
            storage.load_array(tmp_path / "a.mat", "b")


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
