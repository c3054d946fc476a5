"""Move rows' arrays to another store: copy, compare, and only then change the row."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import datajoint as dj
from datajoint.errors import DataJointError

from dj_npy._array.file import ArrayFile
from dj_npy._concurrency.pipeline import IN_FLIGHT, Pipeline, Task, WorkItem
from dj_npy._concurrency.progress import Progress
from dj_npy._datajoint.catalog import another_session, is_npy, snapshot
from dj_npy._datajoint.codec import create_file, describe
from dj_npy._datajoint.storerows import TableWitness
from dj_npy._errors import ArrayCorruptError, ArrayInvalidError, NpyError, StoreError
from dj_npy._format.accepted import check_header
from dj_npy._format.layout import Column
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._format.npyfile import Header
from dj_npy._format.path import is_with_token
from dj_npy._moves.findings import Removals, why_not_copied
from dj_npy._moves.moved import Moved
from dj_npy._moves.paths import KeyPaths
from dj_npy._moves.rows import Rows, Stored, Teller
from dj_npy._settings import settings
from dj_npy._stores import Store, identity, open_store
from dj_npy._stores.remote import BUFFERED
from dj_npy._text import kind_of
from dj_npy._upkeep.collect import check_sees_all, remove_unreferenced


class _Copied(NamedTuple):
    """What became of a file; by default, that it is where it should be."""

    description: dict[str, Any] | None = None
    """The JSON for its rows, if it was copied."""
    what: str = ""
    """What is wrong with it, as in `Finding`."""
    message: str = ""
    untried: bool = False
    """Whether nothing was tried, as the target had failed before."""


def move(
    query: Any,
    attribute: str,
    store: str,
    *,
    remove: bool = False,
    progress: bool = False,
) -> Moved:
    """
    Move arrays to another store.

    Each file is copied, its checksum compared with the row's, and only then the row is changed, if
    it still is what it was. At any moment each row has its file. If this is stopped or killed, call
    it again: rows that have been changed are skipped.

    The old file stays until `collect` removes it, so that references which were fetched before
    remain valid. The new one gets a name with a token, so that `collect` can tell them apart. Rows
    that share a file share the new one. Memory use does not grow with the number of rows or the
    size of arrays.

    Within one store, files are moved whose paths do not follow from its present settings.

    Parameters
    ----------
    query : datajoint.Table
        A table, or a restricted one: ``Recording & "day < '2020-01-01'"``.
    attribute : str
        Name of the ``<npy@>`` attribute.
    store : str
        Name of the store in DataJoint's configuration.
    remove : bool
        When all is done, remove the old files to which no row of any schema refers. The account
        must see all schemas and transactions, as for `collect`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Moved
        ``moved.ok``, ``moved.rows``, ``moved.files``, ``moved.nbytes``, ``moved.findings``,
        ``moved.removed``, ``moved.to_json()``. Missing and damaged files are reported, and their
        rows left alone.

    Raises
    ------
    ArrayInvalidError
        For anything but a table, an attribute that is not ``<npy@>``, or no name of a store.
    StoreError
        If the store refuses a file, or is not the one that rows mean. What was moved until then
        stays so. Also within a transaction, and, with `remove`, if the account does not see all
        that may refer to a file.
    datajoint.DataJointError
        If the database refuses a query. What was moved until then stays so.

    Examples
    --------
    >>> moved = dj_npy.move(Recording, "waveform", "archive")
    >>> moved.rows, moved.ok
    (1, True)
    """
    table, column = _checked(query, attribute)
    connection = table.connection
    if not isinstance(store, str) or not store:
        raise ArrayInvalidError(f"store is the name of a store, not {kind_of(store)}")
    if connection.in_transaction:
        raise StoreError(
            "within a transaction, its rows cannot be moved by another session: move before it, "
            "or after"
        )
    if remove:
        check_sees_all(connection)
    report = Moved(store)
    with ExitStack() as stack:
        rows = stack.enter_context(Rows())
        teller = Teller(stack.enter_context(another_session(connection)))
        teller.check_permission(column)
        with snapshot(connection) as now:
            expression = table.proj(attribute)
            names = expression.heading.names
            found = now.select(expression.make_sql(), ())
            at = [names.index(name) for name in (*column.key, attribute)]
            rows.add(0, (tuple(row[n] for n in at) for row in found if row[at[-1]] is not None))
        target = open_store(connection._config, store)
        if rows.count:
            identity.id_for_write(target, TableWitness(table))
        copier = _Copier(table, column, target)
        bar = stack.enter_context(Progress("move", (rows.count, rows.nbytes) if progress else None))
        pipeline = Pipeline(_work_items(rows, copier), settings.max_workers, IN_FLIGHT, adapt=True)
        try:
            for item in pipeline:
                stored, copied = item.item, item.tasks[0].result()
                _settle(stored, copied, column, teller, copier, report, rows)
                bar.add(stored.file_nbytes * len(stored.keys), len(stored.keys))
        finally:
            pipeline.close()
        if copier.failure is not None:
            raise StoreError(
                f"{copier.failure}. {report.rows:,} of {rows.count:,} rows were moved; the others "
                f"are as they were. Mend that, and call it again"
            ) from copier.failure
        if remove:
            remove_old(connection, rows, report)
    return report


def _checked(query: Any, attribute: str) -> tuple[Any, Column]:
    """Return a table, perhaps restricted, and its column."""
    table = query() if isinstance(query, type) and issubclass(query, dj.Table) else query
    if not isinstance(table, dj.Table):
        raise ArrayInvalidError(
            f"dj_npy.move takes a table or a restricted one, whose rows can be changed, not "
            f"{kind_of(query)}: dj_npy.move(Recording & query, 'waveform', 'archive')"
        )
    full = dj.FreeTable(table.connection, table.full_table_name).heading
    arrays = [
        name
        for name, each in full.attributes.items()
        if each.codec is not None and is_npy(each.codec, each.store)
    ]
    if attribute not in arrays:
        raise ArrayInvalidError(
            f"{table.table_name} has no <npy@> attribute {attribute!r:.100}; it has: "
            f"{', '.join(arrays) or 'none'}"
        )
    if attribute not in table.heading.names or table.heading.primary_key != full.primary_key:
        raise ArrayInvalidError(
            "dj_npy.move takes a table with its own names: restrict it, but do not project it"
        )
    key = tuple(full.primary_key)
    return table, Column(table.database, table.table_name, attribute, key, None)


class _Copier:
    """
    Copies files to a store, in threads.

    Parameters
    ----------
    table : datajoint.Table
        The table of the rows.
    column : Column
        The attribute.
    target : Store
        Where the files go.
    """

    def __init__(self, table: Any, column: Column, target: Store) -> None:
        self.target = target
        self.failure: NpyError | None = None
        """Why nothing more is copied."""
        self._config = table.connection._config
        self._paths = KeyPaths(table, column.key, column.attribute, target)

    def copy(self, stored: Stored) -> _Copied:
        """Copy a file, unless it is damaged, or where it should be."""
        if self.failure is not None:
            return _Copied(untried=True)
        row = stored.row
        try:
            file = ArrayFile(open_store(self._config, row.store), row)
            plain = self._paths.plain(stored.keys[0])
            if file.store is self.target and (
                file.path == plain or is_with_token(file.path, plain)
            ):
                return _Copied()
            header = file.header()
            check_header(header)
        except (DataJointError, OSError) as error:
            return self._wrong(row, error)
        # Never the plain name: `collect` takes files of one path in two stores for one.
        names = self._paths.with_tokens(plain)
        source = _Source(file)
        try:
            store_id = identity.id_for_write(self.target, None)
            path = self._copied_by_server(source, header, names)
            checksum = row.checksum or ""
            if path is None:
                path, checksum = create_file(self.target, names, source, header.file_size)
        except NpyError as error:
            if source.failed or isinstance(error, ArrayCorruptError | ArrayInvalidError):
                return self._wrong(row, error)
            self.failure = error
            return _Copied(untried=True)
        if row.checksum not in (None, checksum):
            self.remove(path)
            return self._wrong(row, None)
        return _Copied(describe(self.target, path, header, checksum, store_id))

    def remove(self, path: str) -> None:
        """Remove a copy to which no row refers; what cannot be removed is left to `collect`."""
        with suppress(NpyError):
            self.target.remove(path)

    def _copied_by_server(
        self, source: "_Source", header: Header, names: Iterator[str]
    ) -> str | None:
        """Copy a file within its store, after it was read; None where that is not possible."""
        file = source.file
        if file.store is not self.target or file.store.is_local or file.row.checksum is None:
            return None
        source.verify()
        return self.target.create_copy(names, file.path, header.file_size)

    def _wrong(self, row: ArrayMetadata, error: Exception | None) -> _Copied:
        """Find out what is wrong with a file that could not be copied."""
        what, message = why_not_copied(row, self._config, error)
        return _Copied(what=what, message=message)


class _Source:
    """The bytes of a file, and whether reading them failed."""

    def __init__(self, file: ArrayFile) -> None:
        self.file, self.failed = file, False

    def __iter__(self) -> Iterator[memoryview]:
        with self._noted():
            yield from self.file.store.pieces(self.file.path)

    def verify(self) -> None:
        """Raise if they are not those that were inserted."""
        with self._noted():
            if self.file.verify() != "as inserted":
                raise ArrayCorruptError("it was changed since it was inserted")

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.failed = True
            raise


def _work_items(rows: Rows, copier: _Copier) -> Iterator[WorkItem]:
    for stored in rows:
        nbytes = 2 * min(stored.file_nbytes, BUFFERED)
        task = Task(partial(copier.copy, stored))
        yield WorkItem(stored, [task], nbytes, workers=lambda: copier.target.writers)


def _settle(
    stored: Stored,
    copied: _Copied,
    column: Column,
    teller: Teller,
    copier: _Copier,
    report: Moved,
    rows: Rows,
) -> None:
    """Change the rows of a file that was copied, or report it."""
    if copied.description is not None:
        new = json.dumps(copied.description)
        told = teller.tell(column, stored, new)
        report.count(stored, told)
        if told:
            rows.note_old_file(stored.row.store, stored.row.path)
        else:
            copier.remove(copied.description["path"])
    elif copied.what:
        keys = [key for key in stored.keys if teller.is_still(column, key, stored.text)]
        report.changed += len(stored.keys) - len(keys)
        report.add(column, stored, keys, copied.what, copied.message)
    elif not copied.untried:
        report.already += len(stored.keys)


def remove_old(connection: Any, rows: Rows, report: Removals) -> None:
    """Remove the old files to which no row refers, and report it."""
    files = ((open_store(connection._config, name), path) for name, path in rows.old_files())
    try:
        found = remove_unreferenced(connection, files)
    except StoreError as error:
        report.failures.append(str(error))
        return
    report.removed, report.shared = found.removed, found.live
    report.failures += found.failures
