"""Check that every row has its file, and the right one."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import datajoint as dj
from datajoint.errors import DataJointError

from dj_npy._array.file import ArrayFile
from dj_npy._concurrency.pipeline import Pipeline, Task, WorkItem
from dj_npy._concurrency.progress import Progress
from dj_npy._datajoint.catalog import Snapshot, connection_of, is_npy, schema_name, snapshot
from dj_npy._errors import ArrayCorruptError, ArrayInvalidError, ArrayMissingError, NpyError
from dj_npy._format import npyfile
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._settings import settings
from dj_npy._stores import Store, StoreConfig, open_store
from dj_npy._stores.remote import BUFFERED
from dj_npy._text import in_units, short_repr

SOUND = ("as described", "as inserted", "no checksum", "changed since insert")
"""Results for files that are not damaged."""
_KEPT = 10_000
"""Findings that a report lists; all are counted."""
_BATCH, _BATCH_BYTES = 64, 4 << 20
"""Files per work item: passing one to a thread and back has a cost."""
_IN_FLIGHT = 256 << 20


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

    checksums: bool
    """Whether every byte was read."""
    tables: list[str] = field(default_factory=list)
    """What was checked: ``schema.table.attribute``."""
    checked: int = 0
    """Number of arrays."""
    nbytes: int = 0
    """Total size of these arrays, according to their rows."""
    counts: Counter[str] = field(default_factory=Counter)
    """
    Number of arrays per result: as in `Finding`, or ``"as inserted"``, to the byte; ``"as
    described"``, if only size, shape and dtype were checked; ``"no checksum"``, if the row, of
    DataJoint's own codec, has none.
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
        return [what for what in self.counts if what not in SOUND[:3]]


def verify(*schemas_or_tables: Any, checksums: bool = False, progress: bool = False) -> Report:
    """
    Check that every row's file exists, is complete, and has the row's shape and dtype.

    Damage is reported, not raised. Files are checked in parallel; memory use does not grow with
    their number. Rows of uncommitted transactions are not seen.

    Parameters
    ----------
    schemas_or_tables : datajoint.Schema, str, datajoint.Table or query
        Names of schemas, schemas, tables, or restricted tables.
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
    report = Report(checksums)
    with ExitStack() as stack:
        # Rows are first spooled to a file: the database would not wait while terabytes are read.
        rows = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
        given = list(map(_check_argument, schemas_or_tables))
        configs = [_spool(each, number, rows, report) for number, each in enumerate(given)]
        rows.seek(0)
        pipeline = Pipeline(
            _work_items(rows, configs, checksums),
            min(settings.max_workers, Store.workers),
            _IN_FLIGHT,
        )
        total = (report.checked, report.nbytes)
        bar = stack.enter_context(Progress("verify", total if progress else None))
        try:
            for item in pipeline:
                for place, (what, message) in zip(item.item, item.tasks[0].result(), strict=True):
                    _add(report, place, what, message)
                    bar.add(place.nbytes)
        finally:
            pipeline.close()
    return report


class _RowToCheck(NamedTuple):
    """A row to check."""

    table: str
    key: dict[str, Any]
    attribute: str
    row: ArrayMetadata
    config: StoreConfig
    nbytes: int


def _spool(given: Any, number: int, rows: Any, report: Report) -> StoreConfig:
    """Write the rows of one argument to a file, and return their store configuration."""
    connection = connection_of(given)
    with snapshot(connection) as now:
        for table, names, attribute, found in _selected(given, now):
            report.tables.append(f"{table}.{attribute}")
            for *values, stored in found:
                key = dict(zip(names, values, strict=True))
                rows.write(json.dumps([number, table, key, attribute, stored], default=_text))
                rows.write("\n")
                report.checked += 1
                report.nbytes += _nbytes(_row(stored))
    config: StoreConfig = connection._config
    return config


def _selected(
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


def _check_argument(given: Any) -> Any:
    kind = given if isinstance(given, type) else type(given)
    if issubclass(kind, dj.expression.QueryExpression) or schema_name(given) is not None:
        return given
    raise ArrayInvalidError(
        f"expected a schema, its name, a table or a query, not {type(given).__name__}"
    )


def _work_items(
    rows: Iterable[str], configs: list[StoreConfig], checksums: bool
) -> Iterator[WorkItem]:
    places: list[_RowToCheck] = []
    nbytes = 0
    for line in rows:
        number, table, key, attribute, stored = json.loads(line)
        row = _row(stored)
        place = _RowToCheck(table, key, attribute, row, configs[number], _nbytes(row))
        size = place.nbytes if checksums else 0
        if places and (len(places) == _BATCH or nbytes + size > _BATCH_BYTES):
            yield _work_item(places, nbytes, checksums)
            places, nbytes = [], 0
        places.append(place)
        nbytes += size
    if places:
        yield _work_item(places, nbytes, checksums)


def _work_item(places: list[_RowToCheck], nbytes: int, checksums: bool) -> WorkItem:
    task = Task(partial(_examine_batch, places, checksums))
    return WorkItem(places, [task], min(nbytes, BUFFERED))


def _examine_batch(places: list[_RowToCheck], checksums: bool) -> list[tuple[str, str]]:
    return [examine(place.row, place.config, checksums) for place in places]


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
        return what, "" if what in SOUND[:3] else "through mmap_mode='r+'"
    except ArrayMissingError as error:
        return "missing", str(error)
    except ArrayCorruptError as error:
        return _damage(file), str(error)
    except (DataJointError, OSError) as error:
        return "unreadable", str(error)


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


def _add(report: Report, place: _RowToCheck, what: str, message: str) -> None:
    report.counts[what] += 1
    if what in SOUND[:3] or len(report.findings) >= _KEPT:
        return
    json, key = place.row.json, place.key
    named = {n: json.get(n) for n in ("store", "path")} if isinstance(json, dict) else {}
    store, path = (
        v if isinstance(v, str) else None for v in (named.get("store"), named.get("path"))
    )
    report.findings.append(Finding(what, place.table, key, place.attribute, store, path, message))


def _row(stored: str) -> ArrayMetadata:
    try:
        return ArrayMetadata(json.loads(stored))
    except (ValueError, RecursionError):
        return ArrayMetadata(stored)


def _nbytes(row: ArrayMetadata) -> int:
    try:
        return row.nbytes
    except ArrayCorruptError:
        return 0


def _text(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
