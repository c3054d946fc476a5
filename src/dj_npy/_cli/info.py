"""The subcommand ``info``: describe an array by its file, or by its row and file."""

import argparse
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from datajoint.errors import DataJointError

from dj_npy._array.file import ArrayFile
from dj_npy._cli.command import FINE, WRONG, Command, Paint, UsageError
from dj_npy._cli.remotefile import beginning_of_url, beginning_on_s3
from dj_npy._cli.tables import Found, arrays_of
from dj_npy._errors import ArrayCorruptError, ArrayMissingError, StoreError
from dj_npy._format import npyfile
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._format.npyfile import Header, ReadBeginning
from dj_npy._stores import Store, open_store
from dj_npy._stores.local.store import LocalStore
from dj_npy._stores.regularfile import open_to_read
from dj_npy._text import in_units, printable


@dataclass
class Description:
    """Facts about one array, and its problem, if any."""

    what: str
    facts: dict[str, Any] = field(default_factory=dict)
    """In output order."""
    problem: str | None = None


def _file_report(path: str) -> Description:
    def read_beginning(length: int) -> tuple[bytes, int]:
        try:
            with open_to_read(path) as file:
                return file.read(length) or b"", os.fstat(file.fileno()).st_size
        except FileNotFoundError as error:
            raise ArrayMissingError(f"there is no file {path!r}") from error
        except IsADirectoryError as error:
            raise StoreError(f"{path!r} is not a file, but a folder") from error
        except OSError as error:
            raise StoreError(f"could not read {path!r}: {error.strerror}") from error

    report = Description(path, {"where": os.path.abspath(path)})
    _read_header(report, read_beginning, repr(path))
    return report


def _url_report(url: str) -> Description:
    scheme = url.partition("://")[0].lower()
    if scheme in ("http", "https"):
        shown, read_beginning = beginning_of_url(url)
    elif scheme == "s3":
        shown, read_beginning = beginning_on_s3(url)
    else:
        raise UsageError(
            f"{scheme}:// is not looked at: give a file, http://, https:// or s3://, or a table "
            f"and a key, which work for every store"
        )
    report = Description(shown, {"where": shown})
    _read_header(report, read_beginning, shown)
    return report


def _row_report(found: Found) -> Description:
    """Describe the array of one attribute of one row."""
    report = Description(
        f"{found.table} {' '.join(f'{name}={value}' for name, value in found.key.items())} "
        f"{found.attribute}",
        {"table": found.table, "key": found.key, "attribute": found.attribute, "row": found.json},
    )
    if found.json is None:
        return report
    row = ArrayMetadata(found.json)
    try:
        report.facts |= {"path": row.path, "store": row.store}
        store = open_store(found.config, row.store)
        report.facts |= {"store": store.name, "where": _address(store, row.path)}
        _ = row.shape, row.dtype

        def read_beginning(length: int) -> tuple[bytes, int]:
            data, stat = store.read_beginning(row.path, length)
            return data, stat.nbytes

        _read_header(report, read_beginning, store.where(row.path))
        if report.problem is None:
            ArrayFile(store, row).header()
    except DataJointError as error:
        report.problem = str(error)
    return report


def _address(store: Store, path: str) -> str:
    if isinstance(store, LocalStore):
        return os.path.join(store.location, path)
    return f"{getattr(store, 'identity', store.name)}/{path}"


def _read_header(report: Description, read_beginning: ReadBeginning, where: str) -> None:
    """Read the header of a file into the report."""

    def read(length: int) -> tuple[bytes, int]:
        data, report.facts["file_nbytes"] = read_beginning(length)
        return data, report.facts["file_nbytes"]

    try:
        header, prefix = npyfile.read_header(read, where)
    except ArrayCorruptError as error:
        report.problem = str(error)
        return
    report.facts["header"] = _header_facts(header, prefix)


def _header_facts(header: Header, prefix: bytes) -> dict[str, Any]:
    return {
        "shape": list(header.shape),
        "dtype": npyfile.dtype_to_json(header.dtype),
        "fortran_order": header.fortran_order,
        "offset": header.offset,
        "version": f"{prefix[6]}.{prefix[7]}",
    }


def _reports(target: str, key: list[str]) -> Iterator[Description]:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", target):
        if key:
            raise UsageError("a URL is looked at without a key")
        yield _url_report(target)
    elif key:
        yield from map(_row_report, arrays_of(target, key))
    else:
        is_table = re.fullmatch(r"\w+\.\w+", target) and not target.endswith(".npy")
        if is_table and not os.path.lexists(target):
            raise UsageError(
                f"there is no file {target!r}; if it is a table, add a key: "
                f"dj-npy info {target} recording_id=1"
            )
        yield _file_report(target)


def info(options: argparse.Namespace) -> int:
    """Describe each array; return the exit code, `WRONG` if one has a problem."""
    paint, code = Paint(), FINE
    for number, report in enumerate(_reports(options.target, options.key)):
        if report.problem is not None:
            code = WRONG
        if options.json:
            facts = {**report.facts, "problem": report.problem}
            print(json.dumps(facts, default=str, ensure_ascii=True), flush=True)
        else:
            print("\n" * bool(number) + _as_text(report, paint), flush=True)
    return code


def _as_text(report: Description, paint: Paint) -> str:
    facts = report.facts
    lines = []
    if "row" in facts:
        lines.append(("row", json.dumps(facts["row"], default=str)))
    lines += [(name, str(facts[name])) for name in ("path", "store", "where") if name in facts]
    header = facts.get("header")
    if header:
        order = "Fortran order" if header["fortran_order"] else "C order"
        description = (
            f"shape {tuple(header['shape'])}, dtype {header['dtype']}, {order}, "
            f"data from byte {header['offset']}, version {header['version']}"
        )
        lines.append(("header", description))
    if "file_nbytes" in facts:
        lines.append(("file", in_units(facts["file_nbytes"])))
    shown = [f"  {paint.faint(f'{name:7}')} {printable(value)}" for name, value in lines]
    if report.problem is not None:
        verdict = paint.bad(f"wrong   {printable(report.problem)}")
    elif header and "row" in facts:
        verdict = paint.good("agree   row, header and size (the data were not read)")
    elif header:
        verdict = paint.good("agree   header and size")
    else:
        verdict = "no array: the attribute is null"
    return "\n".join([paint.bold(printable(report.what)), *shown, f"  {verdict}"])


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        metavar="FILE|URL|SCHEMA.TABLE",
        help="a .npy file, the http://, https:// or s3:// address of one, or a table",
    )
    parser.add_argument(
        "key",
        nargs="*",
        metavar="NAME=VALUE",
        help="of a table: attributes of its primary key, all or some of them",
    )
    parser.add_argument(
        "--json", action="store_true", help="print a line of JSON for each array, for a script"
    )


INFO = Command(
    name="info",
    help="show what a row and its file say of an array",
    description="Show header and size of a .npy file; of a table, the row, its store, where the\n"
    "file is, and whether it is what the row says. The data are not read.\n\n"
    "The database and the stores are those of DataJoint's configuration: datajoint.json,\n"
    "DJ_HOST, DJ_USER, DJ_PASS, DJ_STORES ... An s3:// address is read with the credentials\n"
    "of the configured store with that bucket, or those of this machine.",
    examples="dj-npy info lab.recording recording_id=1\n"
    "dj-npy info lab.Session.Trial subject=M12 --json\n"
    "dj-npy info store/lab/recording/recording_id=1/waveform.npy\n"
    "dj-npy info s3://bucket/lab/recording/recording_id=1/waveform.npy\n"
    "dj-npy info https://example.org/waveform.npy",
    add_arguments=_add_arguments,
    run=info,
)
