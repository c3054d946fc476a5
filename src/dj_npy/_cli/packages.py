"""The subcommands ``export`` and ``import``."""

import argparse

import datajoint as dj

from dj_npy._cli.command import (
    CONFIGURED,
    Command,
    UsageError,
    add_report_options,
    print_report,
)
from dj_npy._cli.tables import find_table, translate_driver_errors
from dj_npy._moves.export import export
from dj_npy._moves.importing import import_package


def _export(options: argparse.Namespace) -> int:
    if options.where is not None and (len(options.what) != 1 or "." not in options.what[0]):
        raise UsageError("--where is a condition on the rows of one table: name SCHEMA.TABLE")
    with translate_driver_errors():
        given = []
        for name in options.what:
            table = find_table(dj.conn(), name)[0] if "." in name else name
            given.append(table if options.where is None else table & options.where)
        exported = export(
            given,
            options.folder,
            store=options.store,
            parquet=options.parquet,
            progress=options.progress,
        )
    return print_report(exported, options)


def _import(options: argparse.Namespace) -> int:
    with translate_driver_errors():
        imported = import_package(
            options.folder,
            store=options.store,
            schemas=_names(options.into, "--into"),
            stores=_names(options.arrays, "--arrays"),
            dry_run=options.dry_run,
            progress=options.progress,
        )
    return print_report(imported, options)


def _names(given: list[str] | None, option: str) -> str | dict[str, str] | None:
    """Return one new name, or new names by old ones."""
    if not given:
        return None
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    pairs = [each.partition("=") for each in given]
    if not all(equals and new for _, equals, new in pairs):
        raise UsageError(f"{option} takes a name, or OLD=NEW for each")
    return {old: new for old, _, new in pairs}


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="+", metavar="SCHEMA[.TABLE]", help="a schema, or one of its tables"
    )
    parser.add_argument(
        "--to", dest="folder", required=True, metavar="FOLDER", help="an empty folder, or a new one"
    )
    parser.add_argument(
        "--where", metavar="SQL", help="a condition, such as \"day < '2020-01-01'\"; default: all"
    )
    parser.add_argument("--store", metavar="STORE", help="the store in which the folder is")
    parser.add_argument(
        "--parquet", action="store_true", help="write each table as a Parquet file, too"
    )
    add_report_options(parser)


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="what dj-npy export has written")
    parser.add_argument("--store", metavar="STORE", help="the store in which the folder is")
    parser.add_argument(
        "--into",
        action="append",
        metavar="[OLD=]NEW",
        help="name of the schema to import into; default: as in the package",
    )
    parser.add_argument(
        "--arrays",
        action="append",
        metavar="[OLD=]NEW",
        help="name of the store of the arrays; default: as in the definitions",
    )
    parser.add_argument("--dry-run", action="store_true", help="only check the package")
    add_report_options(parser)


EXPORT = Command(
    name="export",
    help="write rows and their arrays as a data package",
    description="Write rows, the rows to which they refer, and their arrays into a folder, as CSV\n"
    "and .npy files with a datapackage.json. Stopped or killed, it goes on when called again.\n"
    "The exit code is 1 if an array is missing or damaged; the rest is exported." + CONFIGURED,
    examples="dj-npy export lab_ephys --to paper\n"
    'dj-npy export lab_ephys.recording --where "recording_id < 3" --to paper --parquet',
    add_arguments=_export_arguments,
    run=_export,
)
IMPORT = Command(
    name="import",
    help="make tables and rows of a data package",
    description="Check a package of dj-npy export, declare its tables and insert its rows, also\n"
    "into another kind of database. If anything is wrong, nothing is changed. Stopped or killed,\n"
    "it goes on when called again. The exit code is 1 if an array was damaged when exported."
    + CONFIGURED,
    examples="dj-npy import paper --into paper_ephys\n"
    "dj-npy import paper --into lab_ephys=paper_ephys --arrays archive --dry-run --json",
    add_arguments=_import_arguments,
    run=_import,
)
