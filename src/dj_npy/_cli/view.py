"""The subcommand ``view``: the page of tables and arrays."""

import argparse
import threading
from pathlib import Path

import datajoint as dj

from dj_npy import embedded
from dj_npy._cli.command import FINE, Command, UsageError, ended_by_signals
from dj_npy._cli.tables import translate_driver_errors
from dj_npy._view.view import open_browser, running


def _view(options: argparse.Namespace) -> int:
    with ended_by_signals():
        return _serve(options)


def _serve(options: argparse.Namespace) -> int:
    if options.embedded is not None:
        if not (options.embedded.expanduser() / "postgres").is_dir():  # it would be created
            raise UsageError(
                f"{options.embedded} has no database: name the folder of a `dj-npy quickstart`, or "
                f"of dj_npy.embedded.start"
            )
        embedded.start(options.embedded)
    with translate_driver_errors():
        connection = dj.conn()
    server = running(connection, port=options.port, schemas=options.schemas)
    try:
        print(f"The page is at\n  {server.address}\nCtrl-C ends it.", flush=True)
        if not options.no_browser:
            open_browser(server.address)
        threading.Event().wait()
    finally:
        server.stop()
    return FINE


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "schemas", nargs="*", metavar="SCHEMA", help="the schemas to list; default: all"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=0,
        metavar="N",
        help="the port to listen on; default: any free one",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address, and open nothing"
    )
    parser.add_argument(
        "--embedded",
        type=Path,
        metavar="FOLDER",
        help="the database and the store of a quickstart, or of dj_npy.embedded.start",
    )


VIEW = Command(
    name="view",
    help="look at tables and arrays in the browser",
    description="Start a server for a page of the lab's tables and arrays, and open the browser.\n"
    "It can be reached from this machine only, by those who have the address.\n"
    "It never writes.\n\n"
    "The database and the stores are those of DataJoint's configuration: datajoint.json,\n"
    "DJ_HOST, DJ_USER, DJ_PASS, DJ_STORES ... Needs the extra: pip install 'dj-npy[view]'.",
    examples="dj-npy view\ndj-npy view lab_ephys --port 8080 --no-browser\n"
    "dj-npy view --embedded dj-npy-quickstart",
    add_arguments=_add_arguments,
    run=_view,
)
