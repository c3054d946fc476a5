"""Building blocks of the subcommands of ``dj-npy``."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, TextIO

from dj_npy._text import printable

FINE, WRONG, MISUSED = 0, 1, 2
"""Exit codes: all is well; something is wrong with the data or a store; wrong usage."""
INTERRUPTED, PIPE_CLOSED = 130, 141
"""Exit codes for Ctrl-C and ``| head``, those by which shells report the signals."""

CONFIGURED = (
    "\n\nThe database and the stores are those of DataJoint's configuration: datajoint.json,\n"
    "DJ_HOST, DJ_USER, DJ_PASS, DJ_STORES ..."
)
"""The end of a description."""


class Report(Protocol):
    """What a function has found; its `str` is text."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        ...

    def to_json(self) -> str:
        """Return the whole report as JSON."""
        ...


class UsageError(Exception):
    """The command was called wrongly; the message says how."""


class Command(NamedTuple):
    """A subcommand."""

    name: str
    help: str
    """One line in the list of commands."""
    description: str
    examples: str
    """Command lines, one per line."""
    add_arguments: Callable[[argparse.ArgumentParser], object]
    run: Callable[[argparse.Namespace], int]
    """
    Returns an exit code. Raises `UsageError` for wrong usage, and DataJointError or OSError for
    other errors; each is printed as one line.
    """


class Paint:
    """
    Colours for a terminal, unless ``NO_COLOR`` is set (https://no-color.org).

    Parameters
    ----------
    stream : file
        Where the text is printed.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        stream = sys.stdout if stream is None else stream
        self._on = bool(
            stream is not None
            and stream.isatty()
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb"
        )

    def bold(self, text: str) -> str:
        """Make bold."""
        return self._painted(text, 1)

    def faint(self, text: str) -> str:
        """Make faint."""
        return self._painted(text, 2)

    def good(self, text: str) -> str:
        """Colour a good result."""
        return self._painted(text, 32)

    def bad(self, text: str) -> str:
        """Colour a bad result."""
        return self._painted(text, 31)

    def _painted(self, text: str, code: int) -> str:
        return f"\033[{code}m{text}\033[0m" if self._on else text


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """
    Have ``kill`` and the end of a terminal end the process as the end of its work does.

    By itself, Python would leave at once, and the embedded database would go on.
    """
    if threading.current_thread() is not threading.main_thread():  # has no say in signals
        yield
        return
    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # One that is ignored, as by nohup, stays so.
    ours = [each for each in signals if signal.getsignal(each) is signal.SIG_DFL]

    def end(number: int, _: Any) -> None:
        for each in ours:  # what ends is not to be ended in the middle
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for each in ours:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in ours:
            if signal.getsignal(each) is end:
                signal.signal(each, signal.SIG_DFL)


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--progress`` and ``--json``."""
    parser.add_argument("--progress", action="store_true", help="show a bar")
    parser.add_argument("--json", action="store_true", help="print a JSON, for a script")


def print_report(report: Report, options: argparse.Namespace) -> int:
    """Print a report, as JSON with ``--json``; return the exit code."""
    print_lines(report.to_json() if options.json else str(report))
    return FINE if report.ok else WRONG


def print_lines(text: str) -> None:
    """Print lines that may have anything in them."""
    print("\n".join(map(printable, text.splitlines())), flush=True)
