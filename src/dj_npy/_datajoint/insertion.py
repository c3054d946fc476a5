"""One INSERT or UPDATE with arrays: the files it writes, and their removal if it fails."""

import copy
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from typing import Any, NamedTuple

import datajoint as dj
import numpy as np

from dj_npy._array.arraylike import ArrayLike
from dj_npy._array.ref import NpyRef
from dj_npy._concurrency.pipeline import IN_FLIGHT, Pipeline, Task, WorkItem
from dj_npy._datajoint import transactions
from dj_npy._datajoint.codec import NpyCodec
from dj_npy._datajoint.context import bulk, call_with, current, witness
from dj_npy._datajoint.outcome import Session, Written, remove_files
from dj_npy._errors import ArrayInvalidError
from dj_npy._format.blocks import Blocks
from dj_npy._format.keys import KeyType
from dj_npy._settings import thread_count
from dj_npy._stores import Store, identity, open_store
from dj_npy._text import kind_of

_COPIED = 64 << 20
"""
Size in bytes up to which an array is copied if it may change with the next row.

A larger one is written before the next row is requested; its parts are uploaded in parallel.
"""
_QUIET_S = 1
"""Seconds of silence after which the database connection is checked before the INSERT."""


class Statement:
    """
    One INSERT or UPDATE in progress, and the files written for its rows.

    Parameters
    ----------
    table : datajoint.Table
        The table of the rows.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        self._connection = table.connection
        self._process = os.getpid()
        self._all_encoded = True  # so the next query is the statement itself
        self._session: Session | None = None  # set when the statement is about to be sent
        self._query: str | None = None
        self._sent: transactions.Sent | None = None
        self._written: list[Written] = []
        self._findable: dict[str, bool] = {}
        self._has_failed = False
        self._mutex = threading.Lock()

    @cached_property  # DataJoint builds it on each access
    def table_name(self) -> str:
        """The full name of the table, quoted."""
        return str(self._table.full_table_name)

    @cached_property
    def _key_types(self) -> dict[str, KeyType]:
        attributes = self._table.heading.attributes
        # The drivers know these without a query.
        raw, server, zone = self._connection._conn, "postgresql", ""
        if self._connection.adapter.backend != server:
            server = "mariadb" if "MariaDB" in raw.get_server_info() else "mysql"
        else:
            with suppress(Exception):  # the session is lost: DataJoint will notice, and reconnect
                zone = raw.get_parameter_status("TimeZone") or ""
        return {
            name: KeyType.of("uuid" if each.uuid else each.original_type or each.type, server, zone)
            for name, each in attributes.items()
            if each.in_key and each.codec is None
        }

    def stored_key(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """Return the key as the database will return it."""
        types = self._key_types
        for name, value in key.items():
            if isinstance(value, np.datetime64 | np.timedelta64):
                self._check_driver_takes(name, value)
        return {
            name: types[name].stored(value) if name in types else value
            for name, value in key.items()
        }

    def _check_driver_takes(self, name: str, value: Any) -> None:
        """Reject what psycopg2 would reject later, and then without the row."""
        if self._connection.adapter.backend != "postgresql":
            return
        from psycopg2 import ProgrammingError, extensions

        try:
            extensions.adapt(value)
        except ProgrammingError as error:
            raise ArrayInvalidError(
                f"{error}, of {name}: use pandas.Timestamp(value) or pandas.Timedelta(value), or "
                f"insert frame.astype(object)"
            ) from None

    def encoded(self, attribute: str) -> dict[str, Any] | None:  # noqa: ARG002
        """Return the description of the current row's array if its upload has started."""
        return None

    def note(self, store: Store, path: str, attribute: str) -> None:
        """Record a file, or remove it if the statement has already failed."""
        if attribute not in self._findable:
            self._findable[attribute] = _is_findable(self._table.heading.attributes.get(attribute))
        written = Written(store, path, self.table_name, attribute, self._findable[attribute])
        with self._mutex:
            if not self._has_failed:
                self._written.append(written)
                return
        remove_files([written])

    def wrote(self, nbytes: int) -> None:
        """Record an array that was written."""

    def note_query(self, connection: Any, query: str, sent: transactions.Sent) -> None:
        """Record a query that is about to be sent during this statement."""
        if connection is not self._connection or self._sent is not None or not self._all_encoded:
            return
        if transactions.WRITES_NOTHING.match(query):
            return
        if self.table_name in query:
            self._query, self._sent = query, sent
        transaction = transactions.of(self._connection)
        answered = transaction is not None and transaction.answered
        self._session = Session(self._connection, answered)

    @property
    def _was_alone(self) -> bool:
        return self._sent is not None and self._sent.is_alone

    def _succeeded(self) -> None:
        transaction = transactions.of(self._connection)
        if transaction is not None and self._session is not None:
            transaction.add_files(self._session, self._written)

    def _failed(self, error: BaseException) -> None:
        """Remove the files if certainly no row refers to them."""
        if os.getpid() != self._process:
            return  # a forked child that left the rows' generator: the files are the parent's
        with self._mutex:
            written = list(self._written)
        if self._session is not None and written:
            query = self._query if self._was_alone else None
            if not self._session.left_no_row(written, error, query):
                return
        with self._mutex:
            self._has_failed = True
            written, self._written = self._written, []
        remove_files(written)


class Update(Statement):
    """One UPDATE."""

    _key: dict[str, Any] | None = None

    def stored_key(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """Return the key of the row: a text that the database takes for the row's may differ."""
        if self._key is None:
            self._key = super().stored_key(key)
            if any(each.may_ignore_case for each in self._key_types.values()):
                # As `update1` itself has found it; another session may have deleted it since.
                self._key = next(iter((self._table & key).keys()), self._key)
        return self._key

    def run(self, send: Callable[[], Any]) -> Any:
        """Encode and send the row; leave no file without a row, if that is certain."""
        try:
            result = call_with({current: self, bulk: None}, send)
        except BaseException as error:
            self._failed(error)
            raise
        self._succeeded()
        return result


class Insertion(Statement):
    """
    One INSERT.

    Parameters
    ----------
    table : datajoint.Table
        The table of the rows.
    skip_duplicates : bool
        Whether the server skips rows that exist already.
    """

    def __init__(self, table: Any, skip_duplicates: bool) -> None:
        super().__init__(table)
        self._all_encoded = False
        self._uploads: dict[str, tuple[Task[dict[str, Any]], int]] = {}
        self._bulk = bulk.get()
        self._removes_skipped = skip_duplicates and self._bulk is not None
        self._own_transaction = False

    def run(self, rows: Iterable[Any], send: Callable[[Iterable[Any]], Any]) -> Any:
        """
        Encode and send the rows; leave no file without a row, if that is certain.

        `send` consumes all rows before it sends anything.
        """
        self._check_row(rows)  # an array would be read to be iterated
        pipeline = None
        if self._bulk is not None or self._is_far(rows):
            max_workers = None if self._bulk is None else self._bulk.max_workers
            pipeline = Pipeline(
                self._work_items(rows),
                thread_count(max_workers),
                IN_FLIGHT,
                patient=True,
                adapt=max_workers is None,
            )
        checked_rows = self._rows_then_session_check(
            rows if pipeline is None else self._uploaded(pipeline)
        )
        with self._transaction():
            try:
                result = call_with({current: self, bulk: None}, lambda: send(checked_rows))
            except BaseException as error:
                if pipeline is not None:
                    pipeline.close()
                self._failed(error)
                raise
            finally:
                self._uploads = {}
            skipped = self._skipped()
        remove_files(skipped)
        self._succeeded()
        return result

    def encoded(self, attribute: str) -> dict[str, Any] | None:
        """Return the description of the current row's array if its upload has started."""
        begun = self._uploads.pop(attribute, None)
        if begun is None:
            return None
        task, nbytes = begun
        description = task.result()
        self.wrote(nbytes)
        return description

    def wrote(self, nbytes: int) -> None:
        """Record an array that was written."""
        if self._bulk is not None:
            self._bulk.wrote(nbytes)

    def _rows_then_session_check(self, rows: Iterable[Any]) -> Iterator[Any]:
        begun = time.monotonic()
        for row in rows:
            self._check_row(row)
            yield row
        self._all_encoded = True
        if self._written and time.monotonic() - begun > _QUIET_S:
            # If the server has closed the connection, this fails while certainly nothing was sent.
            self._connection.query("SELECT 1")
        if self._removes_skipped:
            # MySQL reports with each answer whether a transaction is open. DataJoint may believe in
            # one that the user's own COMMIT has ended, and then starts no other.
            self._connection.query("SELECT 1")
            if Session(self._connection).in_transaction:
                return
            self._removes_skipped = not self._connection.in_transaction
            if self._removes_skipped:
                self._own_transaction = True  # set first: Ctrl-C may come in between
                self._connection.start_transaction()

    def _check_row(self, given: Any) -> None:
        """Reject an array, and the first name in a dict, as the values of a row by position."""
        if isinstance(given, ArrayLike) or (
            isinstance(given, str) and given in self._table.heading.names
        ):
            name = self._table.class_name
            raise ArrayInvalidError(
                f"insert takes many rows, and a row is a dict, not {kind_of(given)}: "
                f"use {name}.insert1(row), or {name}.insert([row])"
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """End the transaction, if it was started only for this statement."""
        committing = False
        try:
            yield
            if self._own_transaction:
                committing = True
                self._connection.commit_transaction()
        except BaseException:
            if self._own_transaction:
                if not committing:
                    self._succeeded()  # for now: the rollback removes what it recorded
                with suppress(Exception):  # the session may be lost; the first error is raised
                    self._connection.cancel_transaction()
            raise

    def _skipped(self) -> list[Written]:
        """
        Return the files of skipped rows, before another session can see the inserted ones.

        Another session may move committed rows, which then would not be found.
        """
        if not self._removes_skipped or not self._was_alone or self._session is None:
            return []
        referenced = self._session.referenced(self._written)
        if referenced is None or not self._session.still_in_transaction():
            return []
        skipped = [file for file in self._written if file not in referenced]
        self._written = list(referenced)
        return skipped

    # Concurrent uploads

    @cached_property
    def _codecs(self) -> dict[str, tuple[NpyCodec, str | None]]:
        """Our codec and the store's name for each attribute that is ``<npy@>`` itself."""
        found = {}
        for name, attribute in self._table.heading.attributes.items():
            if attribute.codec is not None and attribute.codec.name == NpyCodec.name:
                _, chain, store = dj.codecs.resolve_dtype(
                    f"<{NpyCodec.name}>", store_name=attribute.store
                )
                if len(chain) == 1 and type(chain[0]) is NpyCodec:
                    found[name] = chain[0], store
        return found

    def _is_far(self, rows: Iterable[Any]) -> bool:
        """Whether a plain insert of several rows had better write their arrays in parallel."""
        if not isinstance(rows, (list, tuple)) or len(rows) < 2:
            return False
        config = self._connection._config
        with suppress(dj.DataJointError):  # a store that cannot be opened, or none: raised later
            return any(open_store(config, store).is_far for _, store in self._codecs.values())
        return False

    def _uploaded(self, pipeline: Pipeline) -> Iterator[Any]:
        """Yield the rows after their arrays: :meth:`encoded` returns the descriptions."""
        for item in pipeline:
            begun: _BegunRow = item.item
            self._uploads = {
                attribute: (task, nbytes)
                for task, (attribute, nbytes) in zip(item.tasks, begun.arrays, strict=True)
            }
            yield begun.row
            self._uploads = {}  # the caller may run another insert

    def _work_items(self, rows: Iterable[Any]) -> Iterator[WorkItem]:
        # A generator of rows may reuse the same memory for each.
        is_materialized = isinstance(rows, (list, tuple, np.ndarray))
        codecs = self._codecs
        agreed: dict[str | None, Store] = {}

        def workers() -> int:
            return max((each.writers for each in [*agreed.values()]), default=1)

        table, config = self._table, self._connection._config
        # DataJoint makes each of these anew whenever it is asked.
        key_names, schema, name = table.primary_key, table.database, table.table_name
        for given in rows:
            row = given if is_materialized else _copy_row(given)
            if row is None:
                yield WorkItem(_BegunRow(given, []), barrier=True)
                continue
            tasks, arrays, total = [], [], 0
            values = _by_name(table, row)
            key = {part: values[part] for part in key_names if part in values}
            for attribute, (codec, store) in codecs.items():
                value = values.get(attribute)
                if not isinstance(value, (np.ndarray, NpyRef)):
                    continue
                if store not in agreed:  # in this thread, which may use the database, and once
                    agreed[store] = open_store(config, store)
                    identity.id_for_write(agreed[store], witness.get())
                context = {"schema": schema, "table": name, "field": attribute, "config": config}
                tasks.append(Task(partial(codec._write, value, key, context, store, self)))
                arrays.append((attribute, value.nbytes))
                total += min(value.nbytes, _COPIED) if isinstance(value, NpyRef) else value.nbytes
            yield WorkItem(_BegunRow(row, arrays), tasks, total, workers=workers)


class _BegunRow(NamedTuple):
    """A row whose arrays are being uploaded."""

    row: Any
    arrays: list[tuple[str, int]]
    """Attribute and size in bytes of each."""


def _is_findable(attribute: Any) -> bool:
    """Whether a row has the path of an attribute's file at the top level of a JSON."""
    if attribute is None or attribute.codec is None:
        return False  # another codec, which writes through ours
    _, chain, _ = dj.codecs.resolve_dtype(f"<{attribute.codec.name}>", store_name=attribute.store)
    return type(chain[-1]) is NpyCodec


def _by_name(table: Any, row: Any) -> Mapping[str, Any]:
    """Return the values of a row by name; empty for an invalid row, for which DataJoint raises."""
    if isinstance(row, Mapping):
        return row
    if isinstance(row, np.void) and row.dtype.names:
        return {name: row[name] for name in row.dtype.names}
    if isinstance(row, (list, tuple)) and len(row) == len(table.heading):
        return dict(zip(table.heading.names, row, strict=True))
    return {}


def _copy_row(row: Any) -> Any:
    """Return a deep copy of a row; None if it is too large or cannot be copied."""
    try:
        if isinstance(row, np.void) and row.dtype.names:
            return {name: _copy(row[name]) for name in row.dtype.names}
        if isinstance(row, Mapping):
            return {name: _copy(value) for name, value in row.items()}
        if isinstance(row, (list, tuple)):
            return [_copy(value) for value in row]
    except Exception:
        pass
    return None


def _copy(value: Any) -> Any:
    if isinstance(value, ArrayLike):
        return value
    if isinstance(value, Blocks):
        raise ArrayInvalidError("its blocks come only when they are written")
    if isinstance(value, np.ndarray):
        if value.nbytes > _COPIED:
            raise ArrayInvalidError("too large to be copied")
        if not value.nbytes:  # nothing can change, and a copy of |S0 would be |S1
            return value
        # deepcopy of a memory map would be another map; of other arrays, it keeps the class.
        return np.array(value) if type(value) is np.memmap else copy.deepcopy(value)
    return copy.deepcopy(value)
