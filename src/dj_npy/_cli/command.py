"""What a subcommand of ``dj-npy`` is made of."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NamedTuple, TextIO

FINE, WRONG, MISUSED = 0, 1, 2
"""Exit codes: as it should be; something is wrong with the data or a store; called wrongly."""
INTERRUPTED, PIPE_CLOSED = 130, 141
"""Exit codes of Ctrl-C and of ``| head``, as a shell reports the signals."""


class UsageError(Exception):
    """The command was called wrongly; the message says how."""


class Command(NamedTuple):
    """A subcommand."""

    name: str
    help: str
    """One line, in the list of commands."""
    description: str
    examples: str
    """Lines as they are typed."""
    add_arguments: Callable[[argparse.ArgumentParser], object]
    run: Callable[[argparse.Namespace], int]
    """
    Returns an exit code. It raises `UsageError` for what was called wrongly, and DataJointError or
    OSError for what is wrong otherwise; each becomes one line.
    """


class Paint:
    """
    Colours, on a terminal, and not where ``NO_COLOR`` is set (https://no-color.org).

    Parameters
    ----------
    stream : file
        Where the text will be printed.
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
        """Emphasize."""
        return self._painted(text, 1)

    def faint(self, text: str) -> str:
        """Set back."""
        return self._painted(text, 2)

    def good(self, text: str) -> str:
        """Say that all is well."""
        return self._painted(text, 32)

    def bad(self, text: str) -> str:
        """Say that something is wrong."""
        return self._painted(text, 31)

    def _painted(self, text: str, code: int) -> str:
        return f"\033[{code}m{text}\033[0m" if self._on else text
