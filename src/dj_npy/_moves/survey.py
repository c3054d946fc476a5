"""Look at the values of columns, and tell what a migration will find."""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from dj_npy._array.ref import NpyRef
from dj_npy._concurrency.pipeline import Pipeline, Task, WorkItem
from dj_npy._concurrency.progress import Progress
from dj_npy._datajoint.catalog import snapshot
from dj_npy._errors import NpyError
from dj_npy._format.layout import Column
from dj_npy._moves.contents import BEGINNING, NoArrayError, Peek, Values, check_blob
from dj_npy._moves.migrated import Migrated
from dj_npy._moves.rows import shown_key
from dj_npy._moves.twin import Twin
from dj_npy._settings import settings

_SAMPLES, _LARGE = 8, 64 << 20
"""Values that are read as a whole, to tell how long it takes, and bytes of one that is not."""
_MOST_KINDS = 1000
"""Dtypes and shapes that are counted one by one."""
_IN_FLIGHT = 16 << 20
_EACH = 16 << 10
"""Bytes of memory for values that are looked at, and for one of them."""


def survey(
    table: Any,
    twins: Sequence[Twin],
    scalars: bool,
    progress: bool,
    report: Migrated,
    *,
    to_blob: bool,
) -> None:
    """Look at the beginning of each value of some attributes, and report what it is."""
    rates = []
    with snapshot(table.connection) as now:
        for twin in twins:
            values = Values(twin.attribute, table.connection, scalars)
            quote = now.adapter.quote_identifier
            name, key = quote(twin.name), [quote(each) for each in twin.key]
            rows = f"FROM {table.full_table_name} WHERE {name} IS NOT NULL"
            beginning, length = name, "0"
            if values.in_table:
                length = f"octet_length({name})"
                if values.kind in ("blob", "attach"):
                    beginning = f"substring({name}, 1, {BEGINNING})"
            [(count,)] = now.select(f"SELECT count(*) {rows}")
            found = now.select(f"SELECT {', '.join([*key, beginning, length])} {rows}")
            column = Column(table.database, table.table_name, twin.name, twin.key, None)
            with Progress("survey", (count, 0) if progress else None) as bar:
                work_items = _work_items(found, values, to_blob)
                pipeline = Pipeline(work_items, settings.max_workers, _IN_FLIGHT)
                try:
                    for item in pipeline:
                        _add(report, column, item.item, item.tasks[0].result())
                        bar.add(0)
                finally:
                    pipeline.close()
            some = now.select(f"SELECT {name} {rows} LIMIT {_SAMPLES}")
            rates.append(_rate(values, [raw for (raw,) in some]))
    if all(rates) and report.nbytes:
        report.seconds = report.nbytes / min(rates)


def _work_items(
    found: Iterator[tuple[Any, ...]], values: Values, to_blob: bool
) -> Iterator[WorkItem]:
    for *key, beginning, nbytes in found:
        task = Task(partial(_peek, values, beginning, to_blob))
        yield WorkItem((tuple(key), nbytes), [task], _EACH)


def _peek(values: Values, beginning: Any, to_blob: bool) -> tuple[str, Peek | str]:
    """Return what a value is, or what is wrong with it."""
    try:
        if to_blob and values.kind == "npy":
            check_blob(beginning)
        return "", values.peek(beginning, bytes(beginning) if values.in_table else None)
    except NoArrayError as error:
        return "no array", str(error)
    except Exception as error:  # DataJoint's, or of any codec and store
        if isinstance(error, NpyError):
            return "unreadable", str(error)
        return "unreadable", f"{type(error).__name__}: {error}"


def _add(
    report: Migrated, column: Column, row: tuple[Any, int], found: tuple[str, Peek | str]
) -> None:
    (key, nbytes), (what, peek) = row, found
    report.rows += 1
    if isinstance(peek, str):
        report.nbytes += nbytes
        report.add(what, shown_key(column, key), column.attribute, peek)
        return
    report.nbytes += nbytes or peek.nbytes
    kinds = report.kinds
    kinds[peek.what if peek.what in kinds or len(kinds) < _MOST_KINDS else "others"] += 1
    if not peek.array:
        report.add("no array", shown_key(column, key), column.attribute, f"it is {peek.what}")


def _rate(values: Values, some: list[Any]) -> float:
    """Return how many bytes a second are read and unpacked."""
    nbytes, start = 0, time.perf_counter()
    for raw in islice(some, _SAMPLES):
        try:
            value = values.decode(raw)
            if isinstance(value, NpyRef):
                if value.nbytes > _LARGE:
                    continue
                value.load()
        except Exception:
            continue
        nbytes += values.size(raw)
    return nbytes / max(time.perf_counter() - start, 1e-9)
