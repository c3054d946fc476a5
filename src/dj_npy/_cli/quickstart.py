"""The subcommand ``quickstart``."""

import argparse
import ast
import shlex
from pathlib import Path
from typing import Any

import datajoint as dj

from dj_npy import embedded
from dj_npy._cli.command import FINE, Command, ended_by_signals

QUICK_START = '''\
import datajoint as dj
import numpy as np

schema = dj.Schema("quickstart")

@schema
class Recording(dj.Manual):
    definition = """
    recording_id : int
    ---
    waveform : <npy@>
    """

Recording.insert1({
    'recording_id': 1,
    'waveform': np.random.randn(1000, 32),
})

ref = (Recording & 'recording_id=1').fetch1('waveform')
ref
ref.shape
ref.dtype
ref.path
mean = np.mean(ref, axis=0)
mean.shape
arr = ref.load()
arr.shape
ref
'''


def quickstart(folder: Path) -> None:
    """
    Run the quick start in an embedded database and print each line with its result.

    Parameters
    ----------
    folder : Path
        Folder of database and store, created or left by an earlier run.

    Raises
    ------
    StoreError
        If the database cannot be started there.
    """
    place = embedded.start(folder)
    print(f"PostgreSQL runs in {place.database}, the store is {place.store}\n")
    names: dict[str, Any] = {"__name__": "quickstart"}
    for statement in ast.parse(QUICK_START).body:
        first = min(
            [statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))]
        )
        lines = QUICK_START.splitlines()[first - 1 : statement.end_lineno]
        if "insert1" in lines[0] and names["Recording"]():
            print("# the row is there from an earlier run: not inserted again")
            continue
        print(">>> " + "\n... ".join(lines))
        if isinstance(statement, ast.Expr):
            result = eval(compile(ast.Expression(statement.value), "<quickstart>", "eval"), names)
            if result is not None:
                print(result if isinstance(result, dj.Table) else repr(result))
        else:
            exec(compile(ast.Module([statement], []), "<quickstart>", "exec"), names)
    print(
        f"\nThe array is an ordinary .npy file:\n  {place.store / names['ref'].path}\n"
        f"\nTo look at it in the browser (pip install 'dj-npy[view]'):\n"
        f"  dj-npy view --embedded {shlex.quote(str(folder))}\n"
        f"\nTo go on from Python:\n"
        f"  import datajoint as dj, dj_npy\n"
        f"  dj_npy.embedded.start({str(folder.absolute())!r})\n"
        f"  Recording = dj.FreeTable(dj.conn(), 'quickstart.recording')\n"
        f"  Recording.to_dicts()"
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("dj-npy-quickstart"),
        metavar="FOLDER",
        help="default: %(default)s",
    )


def _run(options: argparse.Namespace) -> int:
    with ended_by_signals():
        quickstart(options.folder)
    return FINE


QUICKSTART = Command(
    name="quickstart",
    help="start a database of your own and run a first example on it",
    description="Start PostgreSQL and a file store in FOLDER, declare a table, insert an array,\n"
    "fetch it back, show each step. All of it stays for you to look at.",
    examples="dj-npy quickstart\ndj-npy quickstart ~/dj-npy-quickstart",
    add_arguments=_add_arguments,
    run=_run,
)
