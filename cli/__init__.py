"""The command line, one file per command. Data goes to stdout, everything else to stderr.

The exit status is 0 for success, 1 for an error (explained in one line), 2 for wrong usage, and 130 for an interruption
(if training was under way, a checkpoint has been written).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence

import click
from cuista.cli import (
    check,
    common,
    compare,
    convert,
    denoise,
    doctor,
    gen_problem,
    info,
    learn_dict,
    plot,
    prepare_images,
    quickstart,
    reconstruct,
    recover,
    sense,
    simulate,
    solve,
    solve_w,
    test,
    train,
)

from cuista import parallel, ranks
from cuista.errors import CuistaError
from cuista.summary import counted
from cuista.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True})
@click.version_option(__version__, "-V", "--version", prog_name="cuista")
@click.option("--quiet", is_flag=True, help="Show only warnings and errors.")
@click.option("--verbose", is_flag=True, help="Show what is computed, where, and how far training is.")
@click.option("--log-json", is_flag=True, help="Write each message on stderr as one line of JSON.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(**flags: bool) -> None:
    """Recover sparse signals with ALISTA, a network whose weight is computed instead of learned, and its relatives.

    Start with `cuista quickstart`. Every command explains its options with -h, where [brackets] hold default values,
    and accepts the options below, too.
    """


for module in (
    *(quickstart, gen_problem, solve_w, train, test, simulate, recover, solve, compare, plot),
    *(prepare_images, learn_dict, denoise, sense, reconstruct, info, check, convert, doctor),
):
    cli.add_command(module.command)


# The options that every command has, before or after its name.
FLAGS = ("--quiet", "--verbose", "--log-json", "--debug")
# How much a rank that fails alone repeats of what it would have said, in letters.
TOLD = 1000
# The options that may differ from rank to rank.
OWN = ("--device", "--workers")
# The commands whose work the ranks of an MPI job share out; the first rank runs any other command alone.
SHARED_OUT = ("train", "test", "solve-w", "compare", "recover", "solve", "denoise", "reconstruct")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    flags = {word for word in words[:end] if word in FLAGS}
    words = [word for place, word in enumerate(words) if place >= end or word not in FLAGS]
    level = logging.WARNING if "--quiet" in flags else logging.DEBUG if "--verbose" in flags else logging.INFO
    _prepare_process()
    rank, size = ranks.started()
    if size == 1 or not words or words[0] not in SHARED_OUT:
        with common.talking(level, "--log-json" in flags):
            status = _run(words, flags) if rank == 0 else 0
    else:
        status = _run_together(words, flags, level)
    sys.exit(status)


def _run_together(words: list[str], flags: set[str], level: int) -> int:
    """Run the command line with the other ranks of an MPI job, and return its exit status.

    The first rank talks. Another one does so only if it fails alone; it then ends the others, which would wait for it
    for ever.
    """
    rank, size = ranks.started()
    stdout, stderr, said = sys.stdout, sys.stderr, io.StringIO()
    job = ranks.Ranks()

    def run() -> int:
        nonlocal job
        with contextlib.ExitStack() as stack:
            try:
                job = stack.enter_context(ranks.together())
            except CuistaError as error:  # there is no MPI
                return _fail(str(error), 1)
            threads = counted(parallel.processors(), "thread")
            common.say(f"{size} ranks compute, with {threads} each on this machine.")
            try:
                job.check_alike({"the command line": " ".join(_of_all(words))})
            except CuistaError as error:
                return _fail(str(error), 1)
            try:
                return _run(words, flags)
            except Exception:  # --debug
                traceback.print_exc()
                return 1

    if rank:
        sys.stdout, sys.stderr = io.StringIO(), said
    try:
        with common.talking(level, "--log-json" in flags):
            status = run()
    finally:
        sys.stdout, sys.stderr = stdout, stderr
    statuses = job.end(status)
    if rank and (statuses is None or statuses[0] == 0 != status):
        text = said.getvalue()[-TOLD:]
        text = text if "--debug" in flags else text[text.rfind("\nError: ") + 1 :]  # what it did before is no news
        with contextlib.suppress(OSError):
            stderr.write(f"rank {rank} of {size}, on {socket.gethostname()}: {text}\n")
            stderr.flush()
    if statuses is None:
        job.abort(status)
    return status


def _of_all(words: list[str]) -> Iterator[str]:
    """The arguments that all ranks must have alike: without those that may suit the machine of each."""
    rest = iter(words)
    for word in rest:
        if word in OWN:
            next(rest, None)
        elif word.partition("=")[0] not in OWN:
            yield word


def _run(words: list[str], flags: set[str]) -> int:
    """Run the command line, and return its exit status."""
    debug, as_json = "--debug" in flags, "--log-json" in flags
    try:
        if {"--quiet", "--verbose"} <= flags:
            raise click.UsageError("--quiet and --verbose ask for less and for more: give one of them")
        status = cli.main(words, "cuista", standalone_mode=False)
    except click.exceptions.Exit as error:
        status = error.exit_code
    except click.Abort:
        status = _fail("interrupted", 130)
    except click.ClickException as error:
        if as_json:
            common.LOG.error(error.format_message())
        elif sys.stderr is not None:  # otherwise Click would print on stdout
            with contextlib.suppress(OSError):
                error.show()
        status = error.exit_code
    except CuistaError as error:
        if debug:
            raise
        spelled = ", ".join(common.spelled(option) for option in error.options)
        status = _fail(f"{error} ({spelled})" if spelled else str(error), 1)
    except KeyboardInterrupt:
        status = _fail("interrupted", 130)
    except MemoryError as error:
        if debug:
            raise
        status = _fail(f"not enough memory: {error}", 1)
    except (BrokenPipeError, SystemExit):  # from Python or from Click: the reader has gone, as in `cuista … | head`
        status = _closed()
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.filename is None:  # Click prints help texts without common.out
            return _fail(f"cannot write to the standard output: {error.strerror}", 1)
        status = _fail(
            f"internal error: {type(error).__name__}: {error}. Please report it together with the output of --debug", 1
        )
    return status if isinstance(status, int) else 0


def _prepare_process() -> None:
    """Let signals clean up like Ctrl-C, and print what an encoding does not have as escapes."""
    for descriptor in (0, 1, 2):  # if one is closed, the next file to be opened would be taken for that stream
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):  # Windows has only the first
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, signal.default_int_handler)
        sys.unraisablehook = _repeat_interruption
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _repeat_interruption(lost: sys.UnraisableHookArgs) -> None:
    """Interrupt again if Python had to drop an interruption, as in the callbacks that it makes while it imports."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)


def _closed() -> int:
    """The status of a process that SIGPIPE has killed; stdout is replaced, so that Python's last flush succeeds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _fail(message: str, status: int) -> int:
    common.LOG.error(message)
    return status
