"""The subcommand ``migrate``."""

import argparse

import datajoint as dj

from dj_npy._cli.command import CONFIGURED, Command, add_report_options, print_report
from dj_npy._cli.tables import find_table, translate_driver_errors
from dj_npy._moves.migrate import migrate


def _migrate(options: argparse.Namespace) -> int:
    with translate_driver_errors():
        table, _ = find_table(dj.conn(), options.table)
        migrated = migrate(
            table,
            options.attributes,
            options.store,
            to=options.to,
            step=options.step,
            scalars=options.scalars,
            progress=options.progress,
        )
    return print_report(migrated, options)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", metavar="SCHEMA.TABLE", help="a table")
    parser.add_argument("attributes", nargs="+", metavar="ATTRIBUTE", help="attributes of it")
    parser.add_argument(
        "--store", metavar="STORE", help="name of the store for <npy@>; default: the default store"
    )
    parser.add_argument(
        "--to", choices=("npy", "blob"), default="npy", help="the new type; default: npy"
    )
    steps = parser.add_mutually_exclusive_group()
    for step, text in (
        ("survey", "look at every value, and change nothing (the default)"),
        ("copy", "write what the attributes have into hidden columns"),
        ("switch", "copy what is still to be copied, and let the columns change names"),
        ("finish", "remove the old columns"),
        ("undo", "everything as before; until finish"),
    ):
        steps.add_argument(
            f"--{step}", dest="step", action="store_const", const=step, default="survey", help=text
        )
    parser.add_argument(
        "--scalars", action="store_true", help="take Python's numbers for arrays without axes"
    )
    add_report_options(parser)


MIGRATE = Command(
    name="migrate",
    help="turn a column of blobs or attached files into <npy@>, or back",
    description="Turn columns of other types into <npy@>, in place: survey, --copy, --switch,\n"
    "--finish, one after the other. Each can be stopped, killed and called again. The exit code\n"
    "is 1 if a value cannot be converted; nothing is switched then." + CONFIGURED,
    examples="dj-npy migrate lab_ephys.recording waveform\n"
    "dj-npy migrate lab_ephys.recording waveform --store main --switch\n"
    "dj-npy migrate lab_ephys.recording waveform --finish",
    add_arguments=_arguments,
    run=_migrate,
)
