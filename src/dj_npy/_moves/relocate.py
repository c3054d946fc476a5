"""Tell rows of a folder or bucket that was moved by other means."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import datajoint as dj

from dj_npy._concurrency.pipeline import IN_FLIGHT, Pipeline, Task, WorkItem
from dj_npy._concurrency.progress import Progress
from dj_npy._datajoint.catalog import another_session, one_connection, snapshot
from dj_npy._datajoint.storerows import TableWitness
from dj_npy._errors import ArrayCorruptError, ArrayInvalidError, StoreError
from dj_npy._format.layout import Column
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._moves.moved import Moved
from dj_npy._moves.rows import Rows, Teller
from dj_npy._settings import settings
from dj_npy._stores import Store, identity, open_store
from dj_npy._stores.remote import BUFFERED
from dj_npy._upkeep.verify import SOUND, examine


def relocate(
    *schemas: Any,
    old: str,
    new: str,
    checksums: bool = False,
    found_only: bool = False,
    progress: bool = False,
) -> Moved:
    """
    Tell rows that their files are in another store now, under the same paths.

    For a folder or bucket that was copied or moved by other means (``rsync``, ``rclone``, a disk
    that was carried), or a store that gets another name. The files are checked at the new place
    first, for existence, size, shape and dtype; if one is missing or damaged, no row is changed.
    Then each row is changed, if it still is what it was. No file is changed, copied or removed. If
    this is stopped or killed, call it again.

    Parameters
    ----------
    schemas : datajoint.Schema or str
        The schemas whose rows are told; at least one.
    old : str
        Name of the store in the rows. It need not be configured any more.
    new : str
        Name of the store in which the files are now.
    checksums : bool
        Read every byte, and compare the checksum with the row's.
    found_only : bool
        Change the rows whose files are as they should be, even if others are not.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Moved
        ``moved.ok``, ``moved.rows``, ``moved.findings``, ``moved.to_json()``.

    Raises
    ------
    ArrayInvalidError
        For no schema, one that does not exist, or stores without names.
    StoreError
        If the new store is not the one that rows mean which refer to it already, or within a
        transaction. No row was changed.
    datajoint.DataJointError
        If the database refuses a query. What was changed until then stays so.

    Examples
    --------
    >>> moved = dj_npy.relocate(schema, old="disk", new="main")
    >>> moved.rows, moved.ok
    (0, True)
    """
    if not all(isinstance(each, str) and each for each in (old, new)) or old == new:
        raise ArrayInvalidError(
            "old and new are the names of two stores: dj_npy.relocate(schema, old='disk', "
            "new='archive')"
        )
    names, connection = one_connection(schemas, "relocate")
    if connection.in_transaction:
        raise StoreError(
            "within a transaction, its rows cannot be changed by another session: relocate before "
            "it, or after"
        )
    config = connection._config
    target, report = open_store(config, new), Moved(new)
    with ExitStack() as stack:
        rows = stack.enter_context(Rows())
        with snapshot(connection) as now:
            columns = now.columns(names)
            for number, column in enumerate(columns):
                rows.add(number, _of_store(now.rows(column), old, config.stores.get("default")))
        teller = Teller(stack.enter_context(another_session(connection)))
        total = (rows.count, rows.nbytes)
        bar = stack.enter_context(Progress("relocate", total if progress else None))
        work_items = _work_items(rows, target, config, checksums)
        pipeline = Pipeline(work_items, settings.max_workers, IN_FLIGHT, adapt=True)
        try:
            for item in pipeline:
                stored, (what, message) = item.item, item.tasks[0].result()
                if what not in SOUND:
                    rows.note_bad(stored)
                    report.add(columns[stored.column], stored, stored.keys, what, message)
                bar.add(stored.file_nbytes * len(stored.keys), len(stored.keys))
        finally:
            pipeline.close()
        if report.counts and not found_only:
            return report
        _tell(connection, columns, rows, target, teller, report)
    return report


def _tell(
    connection: Any,
    columns: Sequence[Column],
    rows: Rows,
    target: Store,
    teller: Teller,
    report: Moved,
) -> None:
    """Change the rows whose files were found."""
    for column in columns:
        teller.check_permission(column)
    ids: identity.Ids | None = None
    for stored in rows:
        if rows.is_bad(stored):
            continue
        if ids is None:
            for column in columns:
                name = connection.adapter.make_full_table_name(column.schema, column.table)
                identity.id_for_write(target, TableWitness(dj.FreeTable(connection, name)))
            ids = identity.read(target) or ()
        description = {**_moved(stored.row, target).json}
        if ids and stored.row.store_id not in ids:
            description["store_id"] = ids[0]
        text, column = json.dumps(description), columns[stored.column]
        report.count(stored, teller.tell(column, stored, text))


def _of_store(
    found: Iterable[tuple[Any, ...]], store: str, default: Any
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows that refer to a store."""
    for each in found:
        with suppress(ArrayCorruptError):  # no row of ours
            if (ArrayMetadata.of(each[-1]).store or default) == store:
                yield each


def _moved(row: ArrayMetadata, target: Store) -> ArrayMetadata:
    """Return what a row will say."""
    return ArrayMetadata({**row.json, "store": target.name} if isinstance(row.json, dict) else None)


def _work_items(rows: Rows, target: Store, config: Any, checksums: bool) -> Iterator[WorkItem]:
    for stored in rows:
        nbytes = min(stored.file_nbytes, BUFFERED) if checksums else 0
        task = Task(partial(examine, _moved(stored.row, target), config, checksums))
        yield WorkItem(stored, [task], nbytes, workers=lambda: target.workers)
