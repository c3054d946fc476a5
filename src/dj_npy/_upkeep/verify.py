"""Check that every row has its file, and the right one."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import datajoint as dj
from datajoint.errors import DataJointError

from dj_npy._array.file import ArrayFile
from dj_npy._array.ref import NpyRef
from dj_npy._concurrency.pipeline import IN_FLIGHT, Pipeline, Task, WorkItem
from dj_npy._concurrency.progress import Progress
from dj_npy._datajoint.catalog import Snapshot, connection_of, is_npy, schema_name, snapshot
from dj_npy._errors import ArrayCorruptError, ArrayInvalidError, ArrayMissingError, NpyError
from dj_npy._format import npyfile
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._settings import settings
from dj_npy._stores import Store, StoreConfig, open_store
from dj_npy._stores.remote import BUFFERED
from dj_npy._text import in_units, kind_of, short_repr
from dj_npy._upkeep.checklist import Checklist, RowToCheck

_UNREMARKABLE = ("size as described", "as described", "as inserted", "no checksum")
SOUND = (*_UNREMARKABLE, "changed since insert")
"""Results for files that are not damaged."""
_KEPT = 10_000
"""Findings that a report lists; all are counted."""
_BATCH, _BATCH_BYTES = 64, 4 << 20
"""Files per work item of a near store: passing one to a thread and back has a cost."""


class Finding(NamedTuple):
    """A file that is not as it was inserted."""

    what: str
    """
    ``"missing"``, ``"cut short"``, ``"other array"`` (no ``.npy`` file, or of another shape or
    dtype than the row says), ``"other bytes"`` (its checksum differs), ``"unreadable"``,
    ``"invalid row"``, or ``"changed since insert"``, through ``mmap_mode="r+"``.
    """
    table: str
    key: dict[str, Any]
    attribute: str
    store: str | None
    path: str | None
    message: str


@dataclass
class Report:
    """
    The result of `verify`.

    ``str(report)`` is text, ``report.to_json()`` JSON.
    """

    headers: bool
    """Whether every header was to be read."""
    checksums: bool
    """Whether every byte was to be read."""
    tables: list[str] = field(default_factory=list)
    """What was checked: ``schema.table.attribute``."""
    checked: int = 0
    """Number of arrays."""
    nbytes: int = 0
    """Total size of these arrays, according to their rows."""
    counts: Counter[str] = field(default_factory=Counter)
    """
    Number of arrays per result: as in `Finding`, or ``"as inserted"``, to the byte; ``"as
    described"``, if only size, shape and dtype were checked; ``"size as described"``, if only the
    size in a listing of the store was; ``"no checksum"``, if the row, of DataJoint's own codec, has
    none.
    """
    findings: list[Finding] = field(default_factory=list)
    """The first 10,000."""

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return all(what in SOUND for what in self.counts)

    def to_json(self) -> str:
        """Return the whole report as JSON."""
        findings = [finding._asdict() for finding in self.findings]
        return json.dumps({"ok": self.ok, **vars(self), "findings": findings}, indent=2)

    def __str__(self) -> str:
        how = "to the byte" if self.checksums else "for size, shape and dtype"
        if listed := self.counts["size as described"]:
            how = "for size by listings"
            if listed < self.checked:
                how += ", the others for shape and dtype too"
        size = in_units(self.nbytes)
        attributes = f"{len(self.tables)} attribute{'' if len(self.tables) == 1 else 's'}"
        lines = [f"{self.checked:,} arrays of {attributes}, {size}, checked {how}"]
        lines += [f"{count:>10,} {what}" for what, count in sorted(self.counts.items())]
        for finding in self.findings:
            key = ", ".join(f"{name}={value}" for name, value in finding.key.items())
            lines.append(
                f"{finding.what}: {finding.table} ({key}) {finding.attribute}: {finding.message}"
            )
        if (more := sum(self.counts[what] for what in self._listed) - len(self.findings)) > 0:
            lines.append(f"... and {more:,} more")
        return "\n".join(lines)

    @property
    def _listed(self) -> list[str]:
        return [what for what in self.counts if what not in _UNREMARKABLE]


def verify(
    *schemas_or_tables: Any,
    headers: bool = False,
    checksums: bool = False,
    progress: bool = False,
) -> Report:
    """
    Check that every row's file exists and is complete, and has the row's shape and dtype.

    In an object store, a file that a listing shows with the right size is not opened: that takes a
    request per thousand files, not per file. One in a thousand is, and all others are.

    Damage is reported, not raised. Files are checked in parallel; memory use does not grow with
    their number. Rows of uncommitted transactions are not seen.

    Parameters
    ----------
    schemas_or_tables : datajoint.Schema, str, datajoint.Table or query
        Names of schemas, schemas, tables, or restricted tables.
    headers : bool
        Read all headers, also of files that a listing shows with the right size.
    checksums : bool
        Read all bytes, and compare their checksum with the row's.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Report
        ``report.ok``, ``report.counts``, ``report.findings``, ``report.to_json()``.

    Raises
    ------
    ArrayInvalidError
        For an argument of another type, or a schema that does not exist.
    datajoint.DataJointError
        If the database refuses a query.

    Examples
    --------
    >>> report = dj_npy.verify(Recording, checksums=True)
    >>> report.ok
    True
    >>> print(report)
    1 arrays of 1 attribute, 250 KiB (256,000 bytes), checked to the byte
             1 as inserted
    """
    if not schemas_or_tables:
        raise ArrayInvalidError("verify takes one schema or table at least")
    report = Report(headers or checksums, checksums)
    with ExitStack() as stack:
        rows = stack.enter_context(Checklist())
        for each in [check_argument(each, "verify") for each in schemas_or_tables]:
            _list_rows(each, rows, report)
        total = (report.checked, report.nbytes)
        bar = stack.enter_context(Progress("verify", total if progress else None))
        if not report.headers:
            for count, nbytes in rows.settle():
                if count:
                    report.counts["size as described"] += count
                bar.add(nbytes, count)
        work_items = _work_items(rows, checksums)
        pipeline = Pipeline(work_items, settings.max_workers, IN_FLIGHT, adapt=True)
        try:
            for item in pipeline:
                for row, (what, message) in zip(item.item, item.tasks[0].result(), strict=True):
                    _add(report, row, what, message)
                    bar.add(row.nbytes)
        finally:
            pipeline.close()
    return report


def _list_rows(given: Any, rows: Checklist, report: Report) -> None:
    """Add the rows of one argument."""
    connection = connection_of(given)
    rows.add_config(connection._config)
    with snapshot(connection) as now:
        for table, names, attribute, found in selected(given, now):
            report.tables.append(f"{table}.{attribute}")
            for *values, stored in found:
                key = dict(zip(names, values, strict=True))
                report.nbytes += rows.add(table, key, attribute, stored)
                report.checked += 1


def selected(
    given: Any, now: Snapshot
) -> Iterator[tuple[str, Sequence[str], str, Iterable[tuple[Any, ...]]]]:
    """Yield table name, key names, attribute, and an iterator of key and JSON per row."""
    schema = schema_name(given)
    if schema is not None:
        for column in now.columns([schema]):
            yield column.table_name, column.key, column.attribute, now.rows(column)
        return
    query = given() if isinstance(given, type) else given
    table = getattr(query, "full_table_name", None) or type(query).__name__
    for name, attribute in query.heading.attributes.items():
        if attribute.codec is not None and is_npy(attribute.codec, attribute.store):
            expression = query.proj(name)
            names = expression.heading.names
            # With empty arguments, as DataJoint sends it, so that %% becomes %.
            found = now.select(expression.make_sql(), ())
            at = names.index(name)
            yield (
                table.replace("`", "").replace('"', ""),
                [*names[:at], *names[at + 1 :]],
                name,
                ((*row[:at], *row[at + 1 :], row[at]) for row in found if row[at] is not None),
            )


def check_argument(given: Any, function: str) -> Any:
    """Return an argument if it selects rows; otherwise raise, with the right call."""
    kind = given if isinstance(given, type) else type(given)
    if issubclass(kind, dj.expression.QueryExpression) or schema_name(given) is not None:
        return given
    right = ""
    if isinstance(given, NpyRef) and function == "verify":
        right = ": use ref.verify()"
    elif isinstance(given, dict):
        right = f": use dj_npy.{function}(Recording & key)"
    elif isinstance(given, list | tuple):
        right = f": use dj_npy.{function}(*schemas)"
    raise ArrayInvalidError(
        f"expected a schema, its name, a table or a query, not {kind_of(given)}{right}"
    )


def _work_items(rows: Iterable[RowToCheck], checksums: bool) -> Iterator[WorkItem]:
    batch: list[RowToCheck] = []
    nbytes, of, most = 0, None, _BATCH
    asked: set[Store | None] = set()
    for row in rows:
        size, store = row.nbytes if checksums else 0, _store_of(row)
        if batch and (store is not of or len(batch) == most or nbytes + size > _BATCH_BYTES):
            yield _work_item(of, batch, nbytes, checksums)
            batch, nbytes = [], 0
        if store not in asked:  # its first answer tells whether it is far
            asked.add(store)
            yield _work_item(store, [row], size, checksums, barrier=True)
            continue
        of, most = store, 1 if store is not None and store.is_far else _BATCH
        batch.append(row)
        nbytes += size
    if batch:
        yield _work_item(of, batch, nbytes, checksums)


def _work_item(
    store: Store | None,
    rows: list[RowToCheck],
    nbytes: int,
    checksums: bool,
    barrier: bool = False,
) -> WorkItem:
    def workers() -> int:
        return (store or Store).workers

    task = Task(partial(_examine_batch, rows, checksums))
    return WorkItem(rows, [task], min(nbytes, BUFFERED), workers=workers, barrier=barrier)


def _store_of(row: RowToCheck) -> Store | None:
    try:
        return open_store(row.config, row.row.store)
    except (DataJointError, OSError):  # reported when the row is examined
        return None


def _examine_batch(rows: list[RowToCheck], checksums: bool) -> list[tuple[str, str]]:
    return [examine(each.row, each.config, checksums) for each in rows]


def examine(row: ArrayMetadata, config: StoreConfig, checksums: bool) -> tuple[str, str]:
    """
    Check the file of a row; return the result, and a message or an empty text.

    Does not raise: see `Report.counts`.
    """
    if isinstance(row.json, str):
        return "invalid row", f"the row's JSON cannot be read, or is a text: {short_repr(row.json)}"
    try:
        _ = row.path, row.shape, row.dtype, row.store, row.expected_header()
    except ArrayCorruptError as error:
        return "invalid row", str(error)
    try:
        file = ArrayFile(open_store(config, row.store), row)
        if not checksums:
            file.header()
            return "as described", ""
        what = file.verify()
    except ArrayMissingError as error:
        return "missing", str(error)
    except ArrayCorruptError as error:
        return _damage(file), str(error)
    except (DataJointError, OSError) as error:
        return "unreadable", str(error)
    return what, "" if what in _UNREMARKABLE else "through mmap_mode='r+'"


def _damage(file: ArrayFile) -> str:
    """Return what is wrong with a damaged file."""
    row = file.row
    header = len(npyfile.header_bytes(row.dtype, row.shape, False))
    try:
        if file.store.stat(file.path).nbytes < header + row.nbytes:
            return "cut short"
        file.header()
    except ArrayCorruptError:
        return "other array"
    except NpyError:  # removed meanwhile
        return "unreadable"
    return "other bytes"


def _add(report: Report, place: RowToCheck, what: str, message: str) -> None:
    report.counts[what] += 1
    if what in _UNREMARKABLE or len(report.findings) >= _KEPT:
        return
    json, key = place.row.json, place.key
    named = {n: json.get(n) for n in ("store", "path")} if isinstance(json, dict) else {}
    store, path = (
        v if isinstance(v, str) else None for v in (named.get("store"), named.get("path"))
    )
    report.findings.append(Finding(what, place.table, key, place.attribute, store, path, message))
