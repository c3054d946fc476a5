"""The subcommand ``usage``."""

import argparse

from dj_npy._cli.command import CONFIGURED, Command, print_report
from dj_npy._moves.usage import usage


def _usage(options: argparse.Namespace) -> int:
    found = usage(
        *options.schemas,
        by=options.by,
        collectable=options.collectable,
        progress=options.progress,
    )
    return print_report(found, options)


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
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--progress", action="store_true", help="show a bar")
    parser.add_argument("--json", action="store_true", help="print a JSON, for a script")


USAGE = Command(
    name="usage",
    help="tell how much of each store the arrays take",
    description="Count arrays and bytes by schema, table, attribute and store, from the rows\n"
    "alone. The exit code is 1 if a row does not tell." + CONFIGURED,
    examples="dj-npy usage\ndj-npy usage lab_ephys --by subject --collectable --json",
    add_arguments=_usage_arguments,
    run=_usage,
)
