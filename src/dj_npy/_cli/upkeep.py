"""The subcommands ``verify``, ``collect`` and ``adopt``."""

import argparse
import re
from datetime import timedelta

from dj_npy._cli.command import (
    CONFIGURED,
    FINE,
    WRONG,
    Command,
    UsageError,
    print_lines,
    print_report,
)
from dj_npy._upkeep.adopt import adopt
from dj_npy._upkeep.collect import collect
from dj_npy._upkeep.verify import verify

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _verify(options: argparse.Namespace) -> int:
    report = verify(
        *options.schemas,
        headers=options.headers,
        checksums=options.checksums,
        progress=options.progress,
    )
    return print_report(report, options)


def _collect(options: argparse.Namespace) -> int:
    report = collect(
        *options.schemas,
        store=options.store,
        older_than=_parse_age(options.older_than),
        dry_run=not options.delete,
        at_most=options.at_most,
        blind=options.blind,
        dropped=options.dropped,
    )
    return print_report(report, options)


def _adopt(options: argparse.Namespace) -> int:
    ids = adopt(options.schema, options.store, force=options.force)
    print_lines(f"store {options.store!r} is {' and '.join(ids)}" if ids else "nothing was written")
    return FINE if ids else WRONG


def _parse_age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])|0", text)
    try:
        if match is not None:
            return timedelta(**{_UNITS[match[2]]: float(match[1])} if match[2] else {})
    except OverflowError:
        pass
    raise UsageError(f"--older-than is a number and one of s, m, h, d, w, such as 1d, not {text!r}")


def _parse_number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"expected a number, 0 or more, not {text!r}")
    return int(text)


def _add_schemas(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("schemas", nargs="+", metavar="SCHEMA", help="name of a schema")
    parser.add_argument("--json", action="store_true", help="print a JSON, for a script")


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    _add_schemas(parser)
    parser.add_argument(
        "--headers",
        action="store_true",
        help="read every header, even where a listing shows the right size",
    )
    parser.add_argument(
        "--checksums", action="store_true", help="read every byte, and compare its checksum"
    )
    parser.add_argument("--progress", action="store_true", help="show a bar")


def _collect_arguments(parser: argparse.ArgumentParser) -> None:
    _add_schemas(parser)
    parser.add_argument(
        "--store", metavar="S", help="a store; default: those that <npy@> columns and rows name"
    )
    parser.add_argument(
        "--older-than",
        default="1d",
        metavar="AGE",
        help="spare what is younger: longer than any insert or transaction takes, such as 12h, "
        "7d; default: %(default)s",
    )
    parser.add_argument("--delete", action="store_true", help="remove them; default: only tell")
    parser.add_argument(
        "--at-most",
        type=_parse_number,
        metavar="N",
        help="remove nothing if more arrays than this would go; default: as many as stay in that "
        "store, or 20; and none where none stays",
    )
    parser.add_argument(
        "--blind",
        action="store_true",
        help="remove, though the account does not see all that may refer to a file",
    )
    parser.add_argument(
        "--dropped",
        action="store_true",
        help="also the files of schemas, tables and columns that are gone; default: count them",
    )


def _adopt_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("schema", metavar="SCHEMA", help="name of a schema")
    parser.add_argument("store", metavar="STORE", help="name of a store")
    parser.add_argument("--force", action="store_true", help="also if most files are not there")


VERIFY = Command(
    name="verify",
    help="check that every row has its file, and that the right one",
    description="Look whether the file of each row of an <npy@> column is there, whole, and of\n"
    "the shape and dtype that the row says. The exit code is 1 if one is not." + CONFIGURED,
    examples="dj-npy verify lab_ephys\ndj-npy verify lab_ephys lab_imaging --checksums --json",
    add_arguments=_verify_arguments,
    run=_verify,
)
COLLECT = Command(
    name="collect",
    help="find, and remove, files that no row refers to",
    description="List the files of <npy@> columns to which no row of any schema refers, and with\n"
    "--delete remove them. Other files are never touched. The account must see all schemas\n"
    "that use the store." + CONFIGURED,
    examples="dj-npy collect lab_ephys\n"
    "dj-npy collect lab_ephys --store main --older-than 7d --delete",
    add_arguments=_collect_arguments,
    run=_collect,
)
ADOPT = Command(
    name="adopt",
    help="tell that a store was moved or restored",
    description="Tell that a store is the one to which the rows of a schema were written, where\n"
    "the file .dj-npy-store at its root did not come along. It looks for some of their\n"
    "files first." + CONFIGURED,
    examples="dj-npy adopt lab_ephys main",
    add_arguments=_adopt_arguments,
    run=_adopt,
)
