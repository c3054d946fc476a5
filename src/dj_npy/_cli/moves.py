"""The subcommands ``usage``, ``move`` and ``relocate``."""

import argparse

import datajoint as dj

from dj_npy._cli.command import CONFIGURED, Command, add_report_options, print_report
from dj_npy._cli.tables import find_table, translate_driver_errors
from dj_npy._moves.move import move
from dj_npy._moves.relocate import relocate
from dj_npy._moves.usage import usage


def _usage(options: argparse.Namespace) -> int:
    found = usage(
        *options.schemas,
        by=options.by,
        collectable=options.collectable,
        progress=options.progress,
    )
    return print_report(found, options)


def _move(options: argparse.Namespace) -> int:
    with translate_driver_errors():
        table, _ = find_table(dj.conn(), options.table)
        query = table if options.where is None else table & options.where
        moved = move(
            query,
            options.attribute,
            options.store,
            remove=options.remove,
            progress=options.progress,
        )
    return print_report(moved, options)


def _relocate(options: argparse.Namespace) -> int:
    moved = relocate(
        *options.schemas,
        old=options.old,
        new=options.new,
        checksums=options.checksums,
        found_only=options.found_only,
        progress=options.progress,
    )
    return print_report(moved, options)


def _usage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "schemas", nargs="*", metavar="SCHEMA", help="name of a schema; default: all"
    )
    parser.add_argument(
        "--by", metavar="ATTRIBUTE", help="an attribute of the key: for each of its values"
    )
    parser.add_argument(
        "--collectable", action="store_true", help="and what collect would free: lists the stores"
    )
    add_report_options(parser)


def _move_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", metavar="SCHEMA.TABLE", help="a table")
    parser.add_argument("attribute", metavar="ATTRIBUTE", help="an <npy@> attribute of it")
    parser.add_argument("store", metavar="STORE", help="name of a store")
    parser.add_argument(
        "--where", metavar="SQL", help="a condition, such as \"day < '2020-01-01'\"; default: all"
    )
    parser.add_argument(
        "--remove",
        action="store_true",
        help="then remove the old files, unless rows refer to them; default: leave them to collect",
    )
    add_report_options(parser)


def _relocate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("schemas", nargs="+", metavar="SCHEMA", help="name of a schema")
    parser.add_argument(
        "--from", dest="old", required=True, metavar="STORE", help="the store that rows name"
    )
    parser.add_argument(
        "--to", dest="new", required=True, metavar="STORE", help="the store with their files now"
    )
    parser.add_argument(
        "--checksums", action="store_true", help="read every byte, and compare its checksum"
    )
    parser.add_argument(
        "--found-only",
        action="store_true",
        help="tell the rows whose files are there; default: none, if a file is missing",
    )
    add_report_options(parser)


USAGE = Command(
    name="usage",
    help="tell how much of each store the arrays take",
    description="Count arrays and bytes by schema, table, attribute and store, from the rows\n"
    "alone. The exit code is 1 if a row does not tell." + CONFIGURED,
    examples="dj-npy usage\ndj-npy usage lab_ephys --by subject --collectable --json",
    add_arguments=_usage_arguments,
    run=_usage,
)
MOVE = Command(
    name="move",
    help="move arrays to another store",
    description="Copy the arrays of rows to a store, compare their checksums, and tell the rows.\n"
    "Stopped or killed, it goes on when called again. The exit code is 1 if a file is missing\n"
    "or damaged; its row is left as it was." + CONFIGURED,
    examples="dj-npy move lab_ephys.recording waveform archive\n"
    "dj-npy move lab_ephys.recording waveform archive --where \"day < '2020-01-01'\" --remove",
    add_arguments=_move_arguments,
    run=_move,
)
RELOCATE = Command(
    name="relocate",
    help="tell rows of files that were moved by other means",
    description="Check that the files of rows are in another store, under the same paths, and\n"
    "tell the rows. If a file is missing or damaged, no row is changed, and the exit code is 1."
    + CONFIGURED,
    examples="dj-npy relocate lab_ephys --from disk --to archive\n"
    "dj-npy relocate lab_ephys lab_imaging --from disk --to archive --checksums --json",
    add_arguments=_relocate_arguments,
    run=_relocate,
)
