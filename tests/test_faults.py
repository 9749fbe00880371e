"""Files under faults: full disks, killed processes, and several processes with one output."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cuista.cli import main
from test_pictures import save, scene

import cuista
from cuista import storage
from cuista.data.form import Form
from cuista.data.pictures import Picture, read_picture, write_picture
from cuista.errors import FileError
from cuista.evaluation.integrity import check_file
from cuista.storage import files
from cuista.storage.streaming import recover_file

ARRAY = np.random.default_rng(0).standard_normal((100, 300))


def write_record(path, overwrite):
    storage.write(path, storage.Record("cuista-problem", {"A": ARRAY, "b": ARRAY[0]}, {"k": 1}), overwrite=overwrite)


def write_array(path, overwrite):
    storage.save_arrays(path, {"A": ARRAY}, overwrite=overwrite)


def write_codes(path, overwrite):
    doubling = SimpleNamespace(problem=SimpleNamespace(M=300, N=300), recover=lambda y: (2 * y).astype(np.float32))
    recover_file(doubling, path.with_name("y.npy"), path, overwrite=overwrite)


OUTPUTS = [("f.h5", write_record), *[(f"a{end}", write_array) for end in (".npy", ".npz", ".mat", ".h5")]]
OUTPUTS += [("x.npy", write_codes), ("x.h5", write_codes), ("x.csv", write_codes)]
WRITTEN = pytest.mark.parametrize(("name", "write"), OUTPUTS, ids=lambda value: getattr(value, "__name__", value))


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "y.npy", ARRAY)
    return tmp_path


def listing(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- a disk that fails ------------------------------------------------------------------------------------------------


class Failing:
    """A file that writes a certain number of bytes, and then fails as a full disk does."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= memoryview(data).nbytes
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()


@WRITTEN
@pytest.mark.parametrize("exists", [False, True], ids=["new", "over-a-file"])
def test_a_disk_that_is_full_leaves_what_was_there(folder, monkeypatch, name, write, exists):
    if exists:
        (folder / name).write_bytes(b"old")
    before, make = listing(folder), files._new_file
    for room in (0, 1, 500, 20_000, 119_000):
        monkeypatch.setattr(files, "_new_file", lambda path, room=room: Failing(make(path), room))
        with pytest.raises(FileError, match=f"cannot write .*{name}: No space left on device"):
            write(folder / name, exists)
        assert listing(folder) == before
    monkeypatch.setattr(files, "_new_file", make)
    write(folder / name, exists)
    assert (folder / name).stat().st_size > 119_000
    assert set(listing(folder)) == {*before, name}


class Short(io.FileIO):
    """A file that writes less than it is given, as the system may at any time."""

    def write(self, data):
        return super().write(memoryview(data).cast("B")[: max(1, memoryview(data).nbytes * 2 // 3)])


@WRITTEN
def test_short_writes_change_nothing(folder, monkeypatch, name, write):
    write(folder / name, False)
    expected = storage.load_arrays(folder / name)
    make = files._new_file

    def new_file(path):
        make(path).close()
        return io.BufferedRandom(Short(path, "r+b"))

    monkeypatch.setattr(files, "_new_file", new_file)
    write(folder / name, True)
    for array, (key, value) in zip(storage.load_arrays(folder / name).values(), expected.items(), strict=True):
        np.testing.assert_array_equal(array, value, key)


class Forgetful(Failing):
    """A file that gives back other bytes than were written."""

    def read(self, size=-1):
        data = bytearray(self.file.read(size))
        if data:
            data[len(data) // 2] ^= 1
        return bytes(data)

    def seek(self, *where):
        return self.file.seek(*where)


@pytest.mark.parametrize(("name", "write"), [output for output in OUTPUTS if not output[0].endswith(".h5")])
def test_what_the_disk_does_not_give_back_is_not_kept(folder, monkeypatch, name, write):
    make = files._new_file
    monkeypatch.setattr(files, "_new_file", lambda path: Forgetful(make(path), 10**9))
    before = listing(folder)
    with pytest.raises(FileError, match="the disk does not give back what was written"):
        write(folder / name, False)
    assert listing(folder) == before


@pytest.mark.parametrize("call", ["fsync", "replace", "link", "open"])
def test_a_system_call_that_fails_leaves_what_was_there(folder, monkeypatch, call):
    def fail(*arguments, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for exists in (False, True):
        if exists:
            (folder / "f.h5").write_bytes(b"old")
        before = listing(folder)
        with monkeypatch.context() as during:
            during.setattr(os, call, fail)
            if call == {False: "replace", True: "link"}[exists]:
                continue
            with pytest.raises(FileError, match=r"cannot write .*f.h5: Input/output error"):
                write_record(folder / "f.h5", exists)
        assert listing(folder) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.EIO, "Input/output error")], ids=["stop", "EIO"])
@pytest.mark.parametrize("write", [1, 3, 10, 30, 60])
def test_what_happens_while_hdf5_writes_is_raised_when_it_has_closed_its_file(folder, monkeypatch, write, error):
    make, count = files._new_file, [0]

    class Interrupted(Failing):
        def write(self, data):
            count[0] += 1
            if count[0] == write:
                raise error
            return self.file.write(data)

    monkeypatch.setattr(files, "_new_file", lambda path: Interrupted(make(path), 0))
    before = listing(folder)

    def fill():
        with storage.creating(folder / "p.h5", "cuista-patches") as file:
            for number in range(40):
                file.create_dataset(f"train/{number}", data=ARRAY, chunks=(10, 300), fletcher32=True)

    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else FileError):
        fill()
    assert listing(folder) == before


def test_threads_write_files_side_by_side(folder):
    failed = []

    def work(name):
        try:
            for _ in range(10):
                write_record(folder / f"{name}.h5", True)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert set(listing(folder)) == {"y.npy", *(f"{name}.h5" for name in range(4))}


def test_what_is_not_ours_is_left_alone(folder):
    (folder / "victim").write_text("mine")
    (folder / ".f.h5.lock").symlink_to("victim")
    with pytest.raises(FileError, match="cannot write"):
        write_record(folder / "f.h5", False)
    (folder / ".f.h5.lock").unlink()
    (folder / ".f.h5.lock").symlink_to("nothing")
    with pytest.raises(FileError, match="cannot write"):
        write_record(folder / "f.h5", False)
    (folder / ".f.h5.lock").unlink()
    (folder / ".f.h5.lock").write_text("notes of mine")
    with pytest.raises(FileError, match="is in the way, and is not a lock of cuista"):
        write_record(folder / "f.h5", False)
    (folder / ".f.h5.lock").unlink()
    for name in (".f.h5.backup.tmp", ".f.h5.npz.0123abcd.tmp"):
        (folder / name).write_text("mine")
    write_record(folder / "f.h5", False)
    assert set(listing(folder)) == {"y.npy", "victim", "f.h5", ".f.h5.backup.tmp", ".f.h5.npz.0123abcd.tmp"}
    assert (folder / "victim").read_text() == "mine"


@pytest.mark.parametrize("name", ["a" * 252 + ".h5", "é" * 126 + ".h5"])
def test_the_longest_names_can_be_written(folder, name):
    write_record(folder / name, False)
    assert set(listing(folder)) == {"y.npy", name}


def test_a_forked_process_does_not_have_its_parents_claim(folder):
    with storage.claimed(folder / "f.h5"):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                write_record(folder / "f.h5", False)
            except FileError:
                status = 7
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert (folder / ".f.h5.lock").exists()
        write_record(folder / "f.h5", False)
    assert set(listing(folder)) == {"y.npy", "f.h5"}


def test_without_hard_links_a_new_file_is_written_all_the_same(folder, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    write_record(folder / "f.h5", False)
    with pytest.raises(FileError, match="exists already"):
        write_record(folder / "f.h5", False)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from cuista.cli import main
main()
"""


@pytest.mark.parametrize(
    ("words", "out"),
    [
        pytest.param("gen-problem --m 50 --n 100 -o o.h5", "o.h5", marks=pytest.mark.slow),
        pytest.param("solve-w problem.h5 -o o.h5", "o.h5", marks=pytest.mark.slow),
        ("recover model.h5 y.npy -o o.npy", "o.npy"),
        pytest.param("recover model.h5 y.npy -o o.h5", "o.h5", marks=pytest.mark.slow),
        ("prepare-images pictures -o o.h5", "o.h5"),
        ("train problem.h5 -T 2 --max-steps 5 -o o.h5", "o.h5"),
        ("plot model.h5 -o o.png", "o.png"),
    ],
)
def test_an_output_that_does_not_fit_is_one_line(run, words, out):
    A = cuista.normalize_columns(cuista.random_matrix(50, 100))
    problem = cuista.Problem(A, pnz=0.1)
    problem.save("problem.h5")
    cuista.Model.new(problem, layers=2).save("model.h5")
    np.save("y.npy", problem.sample(500)[1])
    Path("pictures").mkdir()
    for number in range(3):
        save(f"pictures/{number}.png", scene((100, 120), seed=number))
    before = set(os.listdir())
    for room in (100, 9000) if out == "o.h5" else (9000,):
        process = subprocess.run(
            [sys.executable, "-c", LIMITED, str(room), *words.split()], capture_output=True, text=True, check=False
        )
        assert process.returncode == 1, process.stderr
        *_, last = process.stderr.splitlines()
        assert last == f"Error: cannot write {out}: File too large"
        assert "Traceback" not in process.stderr
        assert set(os.listdir()) == before


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp", ".jpg", ".webp"])
@pytest.mark.parametrize("depth", [8, 16])
def test_a_picture_that_does_not_fit_is_not_half_written(folder, monkeypatch, ending, depth):
    picture, path = Picture(np.random.default_rng(0).random((1, 60, 70)), Form(depth)), folder / f"p{ending}"
    if depth == 16 and ending not in (".png", ".tif"):
        return
    path.write_bytes(b"old")
    make = files._new_file
    for room in (0, 100, 1000):
        monkeypatch.setattr(files, "reserve", lambda file, size: None)
        monkeypatch.setattr(files, "_new_file", lambda path, room=room: Failing(make(path), room))
        with pytest.raises(FileError, match=f"cannot write .*p{ending}: No space left on device"):
            write_picture(path, picture, overwrite=True)
        assert path.read_bytes() == b"old"


@pytest.mark.parametrize("name", ["f.h5", "f.npy", "f.png"])
def test_what_is_no_file_is_neither_read_nor_replaced(folder, name):
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)):
        make(folder / name)
        for read in (storage.is_cuista, storage.load_arrays, read_picture, check_file, storage.kind_of):
            with pytest.raises(FileError, match=r"cannot read .*: it is a (pipe or a device|folder); give a file"):
                read(folder / name)
        with pytest.raises(FileError, match=r"cannot write .*: it is a (pipe or a device|folder); give"):
            write_record(folder / name, True)
        os.rename(folder / name, folder / f"{make.__name__}.moved")


def test_a_name_that_is_too_long_is_one_line(folder):
    for attempt in (lambda path: write_record(path, False), storage.read, storage.load_arrays):
        with pytest.raises(FileError, match=r"cannot (write|read) .*: File name too long"):
            attempt(folder / f"{'a' * 300}.h5")


def test_a_checkpoint_that_does_not_fit_is_a_warning(run, monkeypatch):
    run("gen-problem", "--m", 20, "--n", 40)
    real, saved = files._new_file, []

    def new_file(path):
        saved.append(path.name)
        return Failing(real(path), 100 if ".ckpt." in path.name else 10**9)

    monkeypatch.setattr(files, "_new_file", new_file)
    with pytest.warns(UserWarning, match="the checkpoint could not be saved, training goes on: .*No space left"):
        run("train", "problem.h5", "-T", 1, "--max-steps", 5, "--checkpoint-every", 0)
    assert any(name.startswith(".model.h5.ckpt.") for name in saved)
    assert sorted(os.listdir()) == ["model.h5", "problem.h5"]


# -- processes that die -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "replace", "link", "unlink"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("exists", [False, True], ids=["new", "over-a-file"])
def test_a_process_that_dies_leaves_the_old_file_or_the_new_one(folder, call, moment, exists):
    path = folder / "f.h5"
    if exists:
        write_record(path, False)
        storage.write(path, storage.Record("cuista-problem", {"A": -ARRAY}), overwrite=True)
    child = os.fork()
    if child == 0:
        real = getattr(os, call)

        def die(*arguments, **options):
            if moment == "after":
                real(*arguments, **options)
            os._exit(9)

        setattr(os, call, die)
        try:
            write_record(path, exists)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    if exists or path.exists():
        assert np.abs(storage.read(path).arrays["A"]).sum() == np.abs(ARRAY).sum()
    # The next writer removes what the dead one has left.
    write_record(path, True)
    assert set(listing(folder)) == {"y.npy", "f.h5"}


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGHUP, signal.SIGUSR1))],
)
def test_a_recovery_that_is_terminated_cleans_up(run, start, number):
    run("gen-problem", "--m", 50, "--n", 100)
    cuista.Model.new(cuista.Problem.load("problem.h5"), layers=2).save("model.h5")
    np.save("y.npy", np.tile(cuista.Problem.load("problem.h5").sample(5000)[1], (400, 1)))
    process = start("recover", "model.h5", "y.npy")
    while not any(name.endswith(".tmp") for name in os.listdir()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("Error: interrupted\n")
    assert sorted(os.listdir()) == ["model.h5", "problem.h5", "y.npy"]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_signals_of_batch_systems_leave_a_checkpoint(run, start, number):
    run("gen-problem", "--m", 20, "--n", 40)
    process = start("train", "problem.h5", "-T", 3, "--max-steps", 10000, "--checkpoint-every", 0)
    while not os.path.exists("model.h5.ckpt"):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume (not --force) continues it" in errors


SCENARIOS = {
    "train": (
        "train problem.h5 -T 1 --max-steps 20 --batch 16 --validation-batch 50 --checkpoint-every 0 --resume",
        "model.h5",
    ),
    "learn-dict": ("learn-dict images.h5 --size 3 --filters 4 --steps 5 --crop 24 --batch 1 --resume", "dictionary.h5"),
    "solve-w": ("solve-w problem.h5 --force", "weight.h5"),
    "recover-npy": ("recover untrained.h5 y.npy -o x.npy --force", "x.npy"),
    "recover-h5": ("recover untrained.h5 y.npy -o x.h5 --force", "x.h5"),
    "prepare-images": ("prepare-images pictures --split 4,1,1 -o set.h5 --force", "set.h5"),
}


def start_command(words):
    """Start a command in a process of its own, which is quicker than a new Python."""
    child = os.fork()
    if child == 0:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        status = 1
        try:
            main(words.split())
        except SystemExit as exit_:
            status = exit_.code or 0
        finally:
            os._exit(status)
    return child


@pytest.mark.parametrize(
    "scenario",
    [pytest.param(each, marks=pytest.mark.slow if each in ("solve-w", "recover-h5") else ()) for each in SCENARIOS],
)
def test_killed_commands_leave_whole_files_and_end_as_if_they_had_not_been_killed(run, tmp_path, scenario, request):
    kills = 200 if request.config.getoption("--slow") else 3
    run("gen-problem", "--m", 20, "--n", 40)
    cuista.Model.new(cuista.Problem.load("problem.h5"), layers=4).save("untrained.h5")
    np.save("y.npy", cuista.Problem.load("problem.h5").sample(9000)[1])
    Path("pictures").mkdir()
    for number in range(6):
        save(f"pictures/{number}.png", scene((60, 70), seed=number))
    run("prepare-images", "pictures", "--split", "4,1,1")
    words, out = SCENARIOS[scenario]
    given, begin = set(os.listdir()), time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(start_command(words), 0)[1]) == 0
    seconds, expected = time.monotonic() - begin, content_of(out)
    os.unlink(out)
    rng, killed = np.random.default_rng(0), 0
    while killed < kills:
        child = start_command(words)
        time.sleep(rng.uniform(0, 1.1 * seconds))
        os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL)
        killed += status != 0
        visible = {name for name in os.listdir() if not name.startswith(".")}
        assert visible - given <= {out, f"{out}.ckpt"}
        for name in visible - given:
            check_file(name)
        if os.path.exists(out):
            assert content_of(out) == expected
            os.unlink(out)
    assert os.waitstatus_to_exitcode(os.waitpid(start_command(words), 0)[1]) == 0
    assert content_of(out) == expected
    assert set(os.listdir()) == {*given, out}


def content_of(path):
    """What must be the same in the files of two equal runs: not when they were made, nor how long that took."""
    if path.endswith(".npy"):
        return Path(path).read_bytes()
    attributes = {}
    if storage.is_cuista(path):
        attributes, _ = storage.contents(path)
    varying = ("created", "command", "training_seconds", "seconds")
    kept = {name: value for name, value in attributes.items() if name not in varying}
    if "weight" in kept:
        kept["weight"] = {**json.loads(kept["weight"]), "seconds": 0}
    arrays = {name: (value.dtype, value.tobytes()) for name, value in storage.load_arrays(path).items()}
    return repr(kept), arrays


# -- several processes with one output --------------------------------------------------------------------------------


def test_a_claimed_file_is_refused_to_others_until_the_claim_ends(folder):
    path = folder / "f.h5"
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with storage.claimed(path):
            os.write(ready[1], b".")
            os.read(done[0], 1)
            os._exit(9)  # dies with its claim
    os.read(ready[0], 1)
    for attempt in (lambda: write_record(path, False), storage.claimed(path).__enter__):
        with pytest.raises(FileError, match=rf"f.h5 is being written by process {child} on .*: wait for it"):
            attempt()
    write_record(folder / "other.h5", False)
    os.write(done[1], b".")
    os.waitpid(child, 0)
    write_record(path, False)
    assert set(listing(folder)) == {"y.npy", "f.h5", "other.h5"}


def test_a_thread_can_claim_again_what_another_cannot(folder):
    path, refused = folder / "f.h5", []

    def claim():
        try:
            with storage.claimed(path):
                pass
        except FileError as error:
            refused.append(str(error))

    with storage.claimed(path):
        with storage.claimed(folder / "." / "f.h5"):
            write_record(path, False)
        thread = threading.Thread(target=claim)
        thread.start()
        thread.join()
    assert refused == [f"{path} is being written by another thread: wait for it, or choose another name"]
    claim()
    assert len(refused) == 1
    assert set(listing(folder)) == {"y.npy", "f.h5"}


def test_of_many_processes_one_writes_a_new_file(folder):
    children, go = [], os.pipe()
    for number in range(4):
        child = os.fork()
        if child == 0:
            os.read(go[0], 1)
            status = 1
            try:
                storage.write(folder / "f.h5", storage.Record("cuista-problem", {"A": ARRAY + number}))
                status = 0
            except FileError:
                pass
            finally:
                os._exit(status)
        children.append(child)
    os.write(go[1], b"....")
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(statuses) == [0, 1, 1, 1]
    np.testing.assert_array_equal(storage.read(folder / "f.h5").arrays["A"], ARRAY + statuses.index(0))
    assert set(listing(folder)) == {"y.npy", "f.h5"}


CALLS = [(os, "open"), (os, "link"), (os, "replace"), (os, "unlink"), (fcntl, "flock")]


def ask(asking, going, call, *arguments, **options):
    """Make a system call when it is allowed."""
    os.write(asking, b".")
    os.read(going, 1)
    return call(*arguments, **options)


def start_in_steps(work):
    """Start a process that does the work, and asks before each system call that other processes can notice."""
    asking, going = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for module, name in CALLS:
                setattr(module, name, partial(ask, asking[1], going[0], getattr(module, name)))
            os.close(asking[0])
            work()
            status = 0
        except FileError:
            status = 7
        finally:
            os._exit(status)
    os.close(asking[1])
    os.close(going[0])
    return SimpleNamespace(pid=child, asking=asking[0], going=going[1], status=None)


def run_in_order(works, choose):
    """Run processes together; `choose` picks which of those that wait goes on. Return their exit statuses."""
    processes = [start_in_steps(work) for work in works]
    waiting = list(range(len(works)))
    moved = waiting
    while True:
        for number in moved:
            process = processes[number]
            if not os.read(process.asking, 1):  # it has ended
                process.status = os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])
                waiting.remove(number)
                os.close(process.asking)
                os.close(process.going)
        if not waiting:
            return [process.status for process in processes]
        moved = [choose(waiting)]
        os.write(processes[moved[0]].going, b".")


def in_every_order(run_one):
    """Run with every order of choices, and return how many there are."""
    orders, count = [[]], 0
    while orders:
        begin, choices = orders.pop(), []

        def choose(waiting, begin=begin, choices=choices):
            number = begin[len(choices)] if len(choices) < len(begin) else waiting[0]
            if len(choices) >= len(begin):
                taken = [number for number, _ in choices]
                orders.extend([*taken, other] for other in waiting[1:])
            choices.append((number, list(waiting)))
            return number

        run_one(choose)
        count += 1
    return count


@pytest.fixture
def written_together(folder):
    """Writes one file in several processes, in an order that is chosen, and checks what is there afterwards."""
    path = folder / "f.h5"
    small = [np.full((2, 2), number) for number in range(4)]

    def check(choose, count, overwrite):
        if overwrite:
            storage.write(path, storage.Record("cuista-problem", {"A": -small[1]}), overwrite=True)
        works = [
            partial(storage.write, path, storage.Record("cuista-problem", {"A": A}), overwrite=overwrite)
            for A in small[:count]
        ]
        statuses = run_in_order(works, choose)
        assert set(statuses) <= {0, 7}
        assert statuses.count(0) == 1 if not overwrite else 0 in statuses
        written = storage.read(path).arrays["A"]
        assert any(status == 0 and (written == A).all() for status, A in zip(statuses, small, strict=False))
        assert set(listing(folder)) == {"y.npy", "f.h5"}
        path.unlink()

    return check


@pytest.mark.parametrize("overwrite", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["new", "over-a-file"])
def test_two_processes_write_one_file_in_every_order(written_together, overwrite):
    assert in_every_order(lambda choose: written_together(choose, 2, overwrite)) > 50


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "over-a-file"])
def test_four_processes_write_one_file_in_many_orders(written_together, overwrite, request):
    choose = np.random.default_rng(0).choice
    for _ in range(1000 if request.config.getoption("--slow") else 10):
        written_together(lambda waiting: int(choose(waiting)), 4, overwrite)


def test_the_second_of_two_jobs_is_refused_at_once(run, start):
    run("gen-problem", "--m", 20, "--n", 40)
    process = start("train", "problem.h5", "-T", 3, "--max-steps", 100000)
    while not os.path.exists(".model.h5.lock"):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    for words in (("train", "problem.h5"), ("gen-problem", "-o", "model.h5", "--force")):
        run(*words, fails=1)
        assert f"model.h5 is being written by process {process.pid} on " in run.errors
    process.kill()
    process.communicate()
    run("train", "problem.h5", "-T", 1, "--max-steps", 1)
    assert sorted(os.listdir()) == ["model.h5", "problem.h5"]


def test_a_file_that_appears_during_the_work_is_not_overwritten(folder):
    def work():
        with storage.replacing(folder / "f.h5") as file:
            file.write(b"new")
            (folder / "f.h5").write_bytes(b"theirs")

    with pytest.raises(FileError, match="has appeared in the meantime"):
        work()
    assert (folder / "f.h5").read_bytes() == b"theirs"
    assert set(listing(folder)) == {"y.npy", "f.h5"}


def test_a_file_that_appears_before_a_run_is_resumed_is_not_overwritten(run, interrupt):
    run("gen-problem", "--m", 20, "--n", 40)
    words = ("train", "problem.h5", "-T", 1, "--max-steps", 20)
    interrupt(*words, when=lambda at, name: at.step == 5)
    Path("model.h5").write_bytes(b"theirs")
    run(*words, "--resume", fails=1)
    assert "model.h5 has been written since the run began: move it away" in run.errors
    assert Path("model.h5").read_bytes() == b"theirs"
    os.rename("model.h5", "theirs.h5")
    run(*words, "--resume")
    assert cuista.Model.load("model.h5").training


def test_a_file_that_is_moved_to_a_runs_output_is_not_overwritten(run, interrupt):
    """However old it is; but the file that was there when a run with --force began is."""
    run("gen-problem", "--m", 20, "--n", 40)
    words = ("train", "problem.h5", "-T", 1, "--max-steps", 20)
    interrupt(*words, when=lambda at, name: at.step == 5)
    Path("model.h5").write_bytes(b"theirs")
    os.utime("model.h5", (0, 0))
    run(*words, "--resume", fails=1)
    assert "model.h5 has been written since the run began" in run.errors
    os.unlink("model.h5")
    run(*words, "--resume")
    interrupt(*words, "--force", "--seed", 1, when=lambda at, name: at.step == 5)
    run(*words, "--seed", 1, "--resume")
    assert cuista.Model.load("model.h5").training["seed"] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda record, state: record.arrays.pop("state/square/step_size"),
        lambda record, state: record.arrays.pop("state/mean/threshold"),
        lambda record, state: [record.arrays.pop(f"state/mean/{name}") for name in ("step_size", "threshold")],
        lambda record, state: record.arrays.pop("state/best/threshold"),
        lambda record, state: record.arrays.pop("state/history"),
        lambda record, state: record.arrays.update({"state/mean/threshold": np.zeros(9)}),
        lambda record, state: state.update(stage=77),
        lambda record, state: state.update(step=-5),
        lambda record, state: state.update(best_error_db=-500.0),
        lambda record, state: state.pop("updates"),
        lambda record, state: record.attributes.pop("replaces"),
    ],
)
def test_a_checkpoint_without_part_of_its_state_is_refused(run, small_problem, small_weight, quick_recipe, change):
    """Although its proof is right."""

    def interrupt(at):
        if at.fraction > 0.7:
            signal.raise_signal(signal.SIGINT)

    def train(**options):
        cuista.train(cuista.Model.new(small_problem, small_weight, layers=3), quick_recipe, out="m.h5", **options)

    with pytest.raises(KeyboardInterrupt):
        train(progress=interrupt)
    record = storage.read("m.h5.ckpt")
    state = json.loads(record.attributes["state"])
    change(record, state)
    record.attributes["state"] = json.dumps(state)
    storage.write("m.h5.ckpt", record, overwrite=True)
    with pytest.raises(FileError, match=r"m.h5.ckpt is damaged: .*; start afresh"):
        train(resume=True)


def test_a_run_whose_output_has_appeared_is_saved(run, small_problem, small_weight, quick_recipe):
    """Then only the model remains to be written."""

    def model():
        return cuista.Model.new(small_problem, small_weight, layers=4)

    expected = cuista.train(model(), quick_recipe).network.parameters

    def appear(at):
        if at.fraction > 0.9:
            Path("model.h5").write_bytes(b"theirs")

    with pytest.raises(FileError, match=r"model.h5 has been written since the run began: move it away"):
        cuista.train(model(), quick_recipe, out="model.h5", progress=appear)
    assert Path("model.h5").read_bytes() == b"theirs"
    os.rename("model.h5", "theirs.h5")
    steps = []
    cuista.train(model(), quick_recipe, out="model.h5", resume=True, progress=steps.append)
    assert not steps
    for name, value in cuista.Model.load("model.h5").network.parameters.items():
        np.testing.assert_array_equal(value, expected[name])


def test_permissions_and_links_stay(folder):
    path, link = folder / "f.h5", folder / "link.h5"
    write_record(path, False)
    path.chmod(0o640)
    link.symlink_to("f.h5")
    storage.write(link, storage.Record("cuista-problem", {"A": -ARRAY}), overwrite=True)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    np.testing.assert_array_equal(storage.read(path).arrays["A"], -ARRAY)
    before = os.umask(0o027)
    write_record(folder / "new.h5", False)
    os.umask(before)
    assert stat.S_IMODE((folder / "new.h5").stat().st_mode) == 0o640


def test_a_folder_without_locks_is_a_warning(folder, monkeypatch):
    import fcntl

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="has no locks"):
        write_record(folder / "f.h5", False)
    assert set(listing(folder)) == {"y.npy", "f.h5"}


# -- streams ----------------------------------------------------------------------------------------------------------

STREAMS = {
    "closed-stderr": ("2>&-", 0, ""),
    "broken-stderr": ("2> >(true)", 0, ""),
    "full-stdout": (">/dev/full", 1, "Error: cannot write to the standard output: No space left on device"),
    "closed-stdout": (">&-", 1, "Error: the standard output is closed, so that there is nowhere to print the result"),
    "broken-stdout": ("> >(true)", None, ""),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case.startswith("closed") else ()) for case in STREAMS]
)
def test_a_stream_that_fails_costs_no_result(run, case):
    run("gen-problem", "--m", 20, "--n", 40)
    redirected, status, said = STREAMS[case]
    code = "import time; time.sleep(0.2); from cuista.cli import main; main()"
    for words in ("train problem.h5 -T 1 --max-steps 5 --force", "test model.h5 --samples 100 -o report.h5"):
        process = subprocess.run(
            ["bash", "-c", f'"$0" -c "{code}" {words} {redirected}', sys.executable],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        prints = words.startswith("test")
        expected = status if prints or status is None else 0
        assert process.returncode in ({0, 141} if expected is None else {expected}), process.stderr
        if prints and said:
            assert process.stderr.splitlines()[-1] == said
        assert "Traceback" not in process.stderr
        assert os.path.exists("report.h5" if prints else "model.h5")


def test_a_help_text_that_cannot_be_printed_is_one_line():
    code = "from cuista.cli import main; main()"
    for words in (["-h"], ["train", "-h"], ["--version"]):
        with open("/dev/full", "w") as full:
            process = subprocess.run(
                [sys.executable, "-c", code, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert process.returncode == 1
        assert process.stderr == "Error: cannot write to the standard output: No space left on device\n"


def test_an_interruption_that_python_drops_is_repeated():
    """Python drops what is raised in a callback, such as those of its imports."""
    code = """
import os, signal, time
from cuista import cli
class Callback:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
def command(*arguments, **options):
    Callback()
    time.sleep(30)
cli.cli.main = command
cli.main()
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=20)
    assert (process.returncode, process.stderr) == (130, "Error: interrupted\n")


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(e, marks=pytest.mark.slow) for e in ("cp1252", "latin-1"))]
)
def test_an_encoding_without_our_letters_prints_escapes(run, encoding):
    for words in ("solve-w -h", "doctor"):
        code = ["-c", "from cuista.cli import main; main()", *words.split()]
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        process = subprocess.run([sys.executable, *code], capture_output=True, check=False, env=environment)
        assert process.returncode == 0, process.stderr
        assert process.stdout.decode("utf-8" if encoding == "ascii" else encoding)  # Click prefers UTF-8 to ASCII
