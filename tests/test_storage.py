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
        storage.write(newer, storage.Record("cuista-problem", {"A": ARRAY + 1j}))
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
    with pytest.raises(InputError, match="is text; expected an array of numbers"):
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
        ("1+2i,3\n4,x\n", "line 2, column 2 is 'x'; expected a number"),
        ("1+2k,3\n", "line 1, column 1 is '1\\+2k'"),
        ("1/2,3\n", "line 1, column 1 is '1/2'"),
        ("(1,2),3\n", "line 1, column 1 is '\\(1'"),
        ("1+2i+3i,3\n", "line 1, column 1 is '1\\+2i\\+3i'"),
        ("f,re,im\n1,2,3\n", "line 1 names real and imaginary parts: 'f,re,im'; expected nothing but pairs"),
        ("re_1,re_2,im_1,im_2\n1,2,3,4\n", "expected .* pairs of neighbouring columns, the real part first"),
        ("im,re\n1,2\n", "expected .* pairs of neighbouring columns, the real part first"),
        ("re,im\n1,2i\n", "line 1 names real and imaginary parts, and columns hold complex numbers"),
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


# -- complex numbers --------------------------------------------------------------------------------------------------

COMPLEX = SMALL + 1j * SMALL[::-1]


def with_parts(array, *names, kind="f8"):
    """Complex numbers as other software stores them in HDF5: as two parts with names."""
    parts = np.zeros(array.shape, [(name, kind) for name in names])
    parts[names[0]], parts[names[1]] = array.real, array.imag
    return parts


def foreign_complex(path, name):
    """Write COMPLEX as `A`, or as the only array, as other software does."""
    import h5py

    sparse = csc_array(COMPLEX)
    if name.endswith((".npy", ".npz")):
        save = np.save if name.endswith(".npy") else lambda file, A: np.savez(file, A=A)
        if name == "sparse.npz":
            save_npz(path / name, sparse)
        else:
            save(path / name, with_parts(COMPLEX, "re", "im") if "parts" in name else COMPLEX)
        return path / name
    if name.startswith("version"):
        savemat(path / "a.mat", {"A": sparse if "sparse" in name else COMPLEX, "s": "text"}, format=name[8])
        return path / "a.mat"
    stored = sparse.data if "sparse" in name else COMPLEX if name == "h5py" else COMPLEX.T
    parts = with_parts(stored, *(("re", "im") if name == "julia" else ("real", "imag")))
    with h5py.File(path / "a.h5", "w", userblock_size=512) as file:
        if name == "h5py":
            file["A"] = COMPLEX
        elif name == "octave":
            octave_variable(file, "A", "complex matrix", parts)
        elif name == "octave sparse":
            values = {"data": parts, "ridx": sparse.indices, "cidx": sparse.indptr, "nr": 4, "nc": 5}
            octave_variable(file, "A", "sparse complex matrix", values)
        elif name == "7.3 sparse":
            file["A/data"], file["A/ir"], file["A/jc"] = parts, sparse.indices, sparse.indptr
            file["A"].attrs.update({"MATLAB_class": np.bytes_("double"), "MATLAB_sparse": np.uint64(4)})
        else:
            file["A"] = parts
            file["A"].attrs["MATLAB_class"] = np.bytes_("double")
    with open(path / "a.h5", "r+b") as raw:
        raw.write({"7": b"MATLAB 7.3 MAT-file", "j": b"HDF5-based Julia Data Format, version 0.2"}.get(name[0], b""))
    return path / "a.h5"


FOREIGN_COMPLEX = [
    "a.npy",
    "a.npz",
    "sparse.npz",
    "parts.npy",
    "parts.npz",
    "version 4",
    "version 4 sparse",
    "version 5",
    "version 5 sparse",
]
FOREIGN_COMPLEX += ["h5py", "7.3", "7.3 sparse", "octave", "octave sparse", "julia"]


@pytest.mark.parametrize("name", FOREIGN_COMPLEX)
def test_complex_arrays_are_read_from_every_format(tmp_path, name):
    path = foreign_complex(tmp_path, name)
    found = storage.load_array(path, "A")
    assert found.dtype == np.complex128
    np.testing.assert_array_equal(found, COMPLEX)
    assert "(4, 5) complex" in storage.described(path, whole=True)
    np.testing.assert_array_equal(next(iter(storage.load_arrays(path).values())), COMPLEX)
    with storage.opened_array(path, "A") as array:
        assert (array.shape, array.size, array.dtype) == ((4, 5), 20, np.complex128)
        np.testing.assert_array_equal(array[1:3], COMPLEX[1:3])
        np.testing.assert_array_equal(array[:, 2:4], COMPLEX[:, 2:4])
        np.testing.assert_array_equal(array[...], COMPLEX)


@pytest.mark.parametrize("names", [("real", "imag"), ("re", "im"), ("r", "i"), ("Re", "Im"), ("re_", "im_")])
def test_the_parts_of_complex_numbers_have_many_names_and_kinds(tmp_path, names):
    import h5py

    special = np.array([complex(np.inf, 1), complex(1, -np.inf), complex(-0.0, 2), complex(3, -0.0)])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["f8"], file["f4"] = with_parts(special, *names), with_parts(special, *names, kind="f4")
        file["i2"] = with_parts(COMPLEX.round(), *names, kind="i2")
        file["table"] = np.zeros(3, [(names[0], "f8"), ("other", "f8")])
    for key, expected in (("f8", special), ("f4", special.astype("c8")), ("i2", COMPLEX.round() + 0)):
        found = storage.load_array(tmp_path / "a.h5", key=key)
        assert found.dtype == expected.dtype
        assert key == "i2" or found.tobytes() == expected.tobytes()
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(InputError, match="a table with the columns"):
        storage.load_array(tmp_path / "a.h5", key="table")


def test_numbers_of_other_precisions_become_double(tmp_path):
    for kind, expected in ((">c8", "c16"), (np.clongdouble, "c16"), ("c8", "c8"), ("f2", "f8"), (np.longdouble, "f8")):
        np.save(tmp_path / "a.npy", np.ones((2, 3), kind))
        assert storage.load_array(tmp_path / "a.npy").dtype == np.dtype(expected)


@pytest.mark.parametrize(
    "text",
    [
        "1+2j,-3j,2\n(0.5-1.5j),1.5e-3-2e-4j,-1j\n",
        "1+2i;-3i;2\n0.5-1.5i;1.5E-3-2E-4i;-1i\n",
        "1,0+2,0i;-3i;2\n0,5-1,5i;1,5e-3-2e-4i;-1i\n",
        " (1e0+2e0j)  (-0e0+-3.0e+00j) (2+0j)\n (0.5+-1.5j) (1.5e-03+-2.0e-04j) (0-1j)\n",
        "1.0 + 2.0im\t0.0 - 3.0im\t2.0 + 0.0im\n0.5 - 1.5im\t0.0015 - 0.0002im\t0.0 - 1.0im\n",
        "1 + 2i   0 - 3i   2 + 0i  # a comment\n0.5 - 1.5i   1.5e-3 - 2e-4i   0 - 1i\n",
        "1.0D+00+2.0D+00i,-3i,2\n5D-1-1.5i,1.5D-3-2D-4i,-1i\n",
        '"1+2i","-3i","2"\n"0.5-1.5i","1.5e-3-2e-4i","-1i"\n',
        "1+2i,-3i,2\n0.5-1.5i,1.5e-3-2e-4i,0-i\n",
        "1 + 2i  0 - 3i  2\n0.5 - 1.5i  1.5e-3 - 2e-4i  0 - i  # a comment\n",
        "1+2i,-3i,2\n0.5-1.5i,1.5e-3-2e-4i,-i\n",
        "# a b c\n1+2I,-3J,2\n0.5 - 1.5i,1.5e-3 -2e-4i,- 1i\n",
    ],
)
def test_complex_numbers_in_text_are_read_as_programs_write_them(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    found = storage.load_array(tmp_path / "a.csv")
    assert found.dtype == np.complex128
    np.testing.assert_array_equal(found, [[1 + 2j, -3j, 2], [0.5 - 1.5j, 1.5e-3 - 2e-4j, -1j]])


def test_signed_units_alone_are_numbers_in_every_line(tmp_path):
    (tmp_path / "a.csv").write_text("-i,+i\ninf-i,3+i\n")
    np.testing.assert_array_equal(storage.load_array(tmp_path / "a.csv"), [[-1j, 1j], [complex(np.inf, -1), 3 + 1j]])


PAIRS = np.array([[1 + 2j, 3 - 4j], [5 + 6.5j, 7 + 8j]])


@pytest.mark.parametrize(
    "names",
    [
        "re,im,re,im",
        "real,imag,real,imag",
        "Re(a),Im(a),Re(b),Im(b)",
        "a_re,a_im,b_re,b_im",
        "re1,im1,re2,im2",
        "a.real,a.imag,b.real,b.imag",
        "Re(y1) [V],Im(y1) [V],Re(y2) [V],Im(y2) [V]",
        "Real part of a,Imaginary part of a,real part of b,imaginary part of b",
        "# re,im,re,im",
        "% of a measurement\n#re im re im",
    ],
)
def test_names_of_columns_say_which_are_real_and_imaginary_parts(tmp_path, names):
    (tmp_path / "a.csv").write_text(f"{names}\n1,2,3,-4\n5,6.5,7,8\n")
    line = 1 + names.count("\n")
    with pytest.warns(UserWarning, match=f"pairs of columns are read as complex numbers, as line {line} says: '"):
        np.testing.assert_array_equal(storage.load_array(tmp_path / "a.csv"), PAIRS)


@pytest.mark.parametrize("text", ["re,im\n1,2\n3,-4\n", ";re;im\na;1;2\nb;3;-4\n"])
def test_one_pair_of_columns_is_a_complex_vector(tmp_path, text, recwarn):
    (tmp_path / "a.csv").write_text(text)
    np.testing.assert_array_equal(storage.load_array(tmp_path / "a.csv"), [1 + 2j, 3 - 4j])
    assert "pairs of columns are read as complex numbers" in str(recwarn[0].message)


@pytest.mark.parametrize(
    "text", ["1,2\n3,-4\n", "real,fake\n1,2\n3,-4\n", "# real and imaginary parts\n1,2\n3,-4\n", "i,j\n1,2\n3,-4\n"]
)
def test_columns_without_names_of_parts_are_real(tmp_path, text, recwarn):
    (tmp_path / "a.csv").write_text(text)
    found = storage.load_array(tmp_path / "a.csv")
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [[1, 2], [3, -4]])


@pytest.mark.parametrize("ending", [".csv", ".npy", ".mat", ".h5"])
def test_pairs_of_columns_are_complex_if_that_is_asked_for(tmp_path, ending, recwarn):
    path, parts = tmp_path / f"a{ending}", PAIRS.view(np.float64)
    for columns in (4, 2, 3):
        if ending == ".csv":
            path.write_text("re,im,re,im\n" * (columns == 4) + words_of(parts[:, :columns], ","))
        else:
            storage.save_arrays(path, {"A": parts[:, :columns]}, overwrite=True)
        if columns == 3:
            with pytest.raises(InputError, match=r"has shape \(2, 3\); expected an even number of columns") as error:
                storage.load_array(path, pairs=True)
            assert error.value.options == ("complex_pairs",)
            continue
        expected = PAIRS if columns == 4 else PAIRS[:, 0]
        np.testing.assert_array_equal(storage.load_array(path, pairs=True), expected)
        with storage.opened_array(path, pairs=True) as array:
            np.testing.assert_array_equal(array[:1], expected[:1])
    np.save(tmp_path / "complex.npy", PAIRS)
    with pytest.raises(InputError, match="is complex as it is"):
        storage.load_array(tmp_path / "complex.npy", pairs=True)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.complex64, np.complex128])
def test_a_csv_file_has_all_digits_of_its_numbers(tmp_path, kind):
    from cuista.storage.text import as_csv

    rng, real = np.random.default_rng(0), np.empty(0, kind).real.dtype
    numbers = (10.0 ** rng.integers(-30, 30, (20, 6)) * rng.standard_normal((20, 6))).astype(real)
    numbers[0] = [np.inf, -np.inf, 0.0, -0.0, 1, np.nan]
    (tmp_path / "a.csv").write_bytes(as_csv(numbers.view(kind)))
    found = storage.load_array(tmp_path / "a.csv").astype(kind)
    assert found.tobytes() == numbers.tobytes()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".h5"])
@pytest.mark.parametrize("kind", ["c8", "c16"])
def test_complex_arrays_go_out_and_come_back(tmp_path, suffix, kind):
    storage.save_arrays(tmp_path / f"a{suffix}", {"A": COMPLEX.astype(kind)})
    found = storage.load_array(tmp_path / f"a{suffix}", "A")
    assert found.dtype == np.dtype(kind)
    np.testing.assert_array_equal(found, COMPLEX.astype(kind))


def test_a_record_keeps_complex_arrays_and_only_then_needs_a_new_cuista(tmp_path):
    for name, array, version in (("real", SMALL, 1), ("complex", COMPLEX.astype("c8"), 2)):
        record = storage.Record("cuista-problem", {"A": array})
        storage.write(tmp_path / f"{name}.h5", record)
        for found in (storage.read(tmp_path / f"{name}.h5"), storage.unpacked(storage.packed(record))):
            assert found.arrays["A"].dtype == array.dtype
            np.testing.assert_array_equal(found.arrays["A"], array)
            assert found.attributes["format_version"] == version
    assert storage.contents(tmp_path / "complex.h5")[1] == {"A": ((4, 5), "complex64")}


@pytest.mark.parametrize("write", ["record", "arrays.h5", "arrays.npz"])
def test_a_flipped_bit_in_an_imaginary_part_is_found(tmp_path, write):
    path = tmp_path / f"a{'.h5' if write == 'record' else write[6:]}"
    if write == "record":
        storage.write(path, storage.Record("cuista-problem", {"A": COMPLEX}))
    else:
        storage.save_arrays(path, {"A": COMPLEX})
    whole, row = path.read_bytes(), COMPLEX[1].tobytes()
    for byte in (8, 15, 16 * 3 + 11):  # of imaginary parts
        data = bytearray(whole)
        data[whole.index(row) + byte] ^= 1
        path.write_bytes(data)
        with pytest.raises(FileError, match=r"is not what was written|is damaged: Bad CRC"):
            storage.read(path) if write == "record" else storage.load_array(path)


def test_the_hash_of_an_array_covers_both_parts_of_its_numbers():
    assert storage.sha256(SMALL) == "9c75defb894ef69381dc3c5387df235b2f71043df4886252a0605518b7d8cd84"  # as in 0.1.0
    known = storage.sha256(COMPLEX)
    single = COMPLEX.astype("c8")
    assert known == storage.sha256(COMPLEX.astype(">c16")) == storage.sha256(np.asfortranarray(COMPLEX))
    assert storage.sha256(single) == storage.sha256(single.astype("c16")) != known
    others = (COMPLEX.real, COMPLEX.real + 0j, COMPLEX.conj(), COMPLEX[::-1], COMPLEX.view(np.float64), COMPLEX.ravel())
    assert len({known, *map(storage.sha256, others)}) == 1 + len(others)


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
