"""The command ``dj-npy``: subcommands, and the errors and exit codes of all of them."""

import argparse
import os
import sys
from collections.abc import Sequence

import datajoint as dj
from datajoint.errors import DataJointError

from dj_npy import __version__
from dj_npy._cli.backups import BACKUP, REBUILD, RESTORE
from dj_npy._cli.command import (
    INTERRUPTED,
    MISUSED,
    PIPE_CLOSED,
    WRONG,
    Command,
    UsageError,
)
from dj_npy._cli.info import INFO
from dj_npy._cli.migrate import MIGRATE
from dj_npy._cli.moves import MOVE, RELOCATE, USAGE
from dj_npy._cli.packages import EXPORT, IMPORT
from dj_npy._cli.quickstart import QUICKSTART
from dj_npy._cli.upkeep import ADOPT, COLLECT, VERIFY
from dj_npy._cli.view import VIEW
from dj_npy._text import printable

COMMANDS: tuple[Command, ...] = (
    QUICKSTART,
    VIEW,
    INFO,
    VERIFY,
    COLLECT,
    ADOPT,
    USAGE,
    MIGRATE,
    MOVE,
    RELOCATE,
    EXPORT,
    IMPORT,
    BACKUP,
    RESTORE,
    REBUILD,
)

_EXIT_CODES = """\
exit codes:
  0    all is as it should be
  1    something is wrong with the data, the database or a store
  2    the command was called wrongly
  130  interrupted by Ctrl-C
  141  the reader of the output has gone (| head)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    dj.logger.setLevel("CRITICAL")  # it writes to standard output
    try:
        try:
            return _run(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python would flush again at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except UsageError as error:
        return _print_error(error, MISUSED)
    except (DataJointError, OSError) as error:
        return _print_error(error, WRONG)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as done:  # of --help, --version, or wrong arguments
        return int(done.code or 0)
    run: Command = options.command
    return run.run(options)


def _print_error(error: Exception, code: int) -> int:
    text = printable(" ".join((str(error) or type(error).__name__).split()))
    print(f"dj-npy: {text}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dj-npy",
        description="NumPy arrays beside a DataJoint database, as .npy files.",
        epilog="examples:\n"
        + "".join(f"  {command.examples.splitlines()[0]}\n" for command in COMMANDS)
        + f"\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dj-npy {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        examples = command.examples.splitlines()
        subparser = subparsers.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            epilog="\n".join(["examples:", *(f"  {line}" for line in examples), "", _EXIT_CODES]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(command=command)
    return parser
