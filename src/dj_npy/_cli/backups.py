"""The subcommands ``backup``, ``restore`` and ``rebuild``."""

import argparse
import json

from dj_npy._cli.command import (
    CONFIGURED,
    FINE,
    Command,
    add_report_options,
    print_lines,
    print_report,
)
from dj_npy._cli.tables import translate_driver_errors
from dj_npy._moves.backup import backup, backups
from dj_npy._moves.rebuild import rebuild
from dj_npy._moves.restore import restore


def _backup(options: argparse.Namespace) -> int:
    with translate_driver_errors():
        done = backup(
            *options.schemas, store=options.store, keep=options.keep, progress=options.progress
        )
    return print_report(done, options)


def _restore(options: argparse.Namespace) -> int:
    if options.list:
        names = backups(options.store)
        text = json.dumps(names) if options.json else "\n".join(names)
        print_lines(text or "there is no backup in this store")
        return FINE
    with translate_driver_errors():
        done = restore(
            *options.schemas,
            store=options.store,
            backup=options.backup,
            dry_run=options.dry_run,
            progress=options.progress,
        )
    return print_report(done, options)


def _rebuild(options: argparse.Namespace) -> int:
    with translate_driver_errors():
        done = rebuild(options.store, insert_rows=options.insert, progress=options.progress)
    return print_report(done, options)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store", metavar="STORE", help="the store of the backups; default: the default store"
    )


def _backup_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "schemas", nargs="*", metavar="SCHEMA", help="default: all of DataJoint's schemas"
    )
    _add_store(parser)
    parser.add_argument(
        "--keep",
        type=int,
        metavar="N",
        help="remove earlier backups but the newest N; those of the last day stay",
    )
    add_report_options(parser)


def _restore_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("schemas", nargs="*", metavar="SCHEMA", help="default: all of the backup")
    _add_store(parser)
    parser.add_argument("--backup", metavar="NAME", help="default: the newest")
    parser.add_argument("--list", action="store_true", help="print the names of the backups")
    parser.add_argument("--dry-run", action="store_true", help="only check the backup")
    add_report_options(parser)


def _rebuild_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", nargs="?", metavar="STORE", help="default: the default store")
    parser.add_argument(
        "--insert", action="store_true", help="insert the rows; by default, only tell of them"
    )
    add_report_options(parser)


BACKUP = Command(
    name="backup",
    help="write definitions and rows into a store",
    description="Write the definitions and rows of schemas into a store, from which dj-npy\n"
    "restore brings them back. Only rows that no earlier backup has are written. They are not\n"
    "encrypted: whoever may read the store can read them. The arrays are in their stores."
    + CONFIGURED,
    examples="dj-npy backup\ndj-npy backup lab_ephys lab_subjects --store archive --keep 30",
    add_arguments=_backup_arguments,
    run=_backup,
)
RESTORE = Command(
    name="restore",
    help="make schemas, tables and rows of a backup",
    description="Check a backup, declare its tables, insert its rows, and look for their arrays.\n"
    "If anything is wrong, nothing is changed. Stopped or killed, it goes on when called again.\n"
    "The exit code is 1 if an array is missing or damaged." + CONFIGURED,
    examples="dj-npy restore --list\ndj-npy restore --dry-run\n"
    "dj-npy restore lab_ephys --store archive --backup 2026-11-28T093000.000000Z",
    add_arguments=_restore_arguments,
    run=_restore,
)
REBUILD = Command(
    name="rebuild",
    help="bring rows back from the arrays in a store",
    description="Find out from the paths and headers of arrays which rows there were, and insert\n"
    "those whose tables want no more than a key and arrays. Declare the tables first. The exit\n"
    "code is 1 if there are arrays whose rows cannot be inserted." + CONFIGURED,
    examples="dj-npy rebuild main\ndj-npy rebuild main --insert --progress",
    add_arguments=_rebuild_arguments,
    run=_rebuild,
)
