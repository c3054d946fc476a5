"""One INSERT or UPDATE with arrays: what it writes, and what becomes of that if it fails."""

import copy
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import datajoint as dj
import numpy as np

from dj_npy._array.ref import NpyRef
from dj_npy._concurrency.pipeline import Pipeline, Task, WorkItem
from dj_npy._datajoint import transactions
from dj_npy._datajoint.codec import NpyCodec
from dj_npy._datajoint.context import bulk, call_with, current, witness
from dj_npy._datajoint.outcome import Session, Written, take_back
from dj_npy._errors import ArrayInvalidError
from dj_npy._format.blocks import Blocks
from dj_npy._stores import Store, identity, open_store

_IN_FLIGHT = 256 << 20
"""Bytes of arrays that are uploaded side by side; a larger one goes alone."""
_COPIED = 64 << 20
"""
Bytes up to which an array is copied that may change once the next row is asked for.

A larger one is written before that; its own parts go side by side.
"""
_QUIET_S = 1
"""How long the database is not spoken to before it is asked whether it is still there."""


class Statement:
    """
    One INSERT or UPDATE in the making: the files that are written for its rows.

    Parameters
    ----------
    table : datajoint.Table
        Whose rows they are.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        self._connection = table.connection
        self._process = os.getpid()
        self._ready = True  # to be sent
        self._session: Session | None = None  # in which it is sent, once it may have been
        self._query: str | None = None
        self._sent: transactions.Sent | None = None
        self._written: list[Written] = []
        self._told: dict[str, bool] = {}
        self._given_up = False
        self._mutex = threading.Lock()

    @cached_property  # DataJoint makes it anew each time it is asked
    def table_name(self) -> str:
        """The full name of the table, quoted."""
        return str(self._table.full_table_name)

    def encoded(self, attribute: str) -> dict[str, Any] | None:  # noqa: ARG002
        """Return what describes an array of the row that is being encoded, if it was begun."""
        return None

    def note(self, store: Store, path: str, attribute: str) -> None:
        """Remember a file, or remove it if it comes too late."""
        if attribute not in self._told:
            self._told[attribute] = _is_told(self._table.heading.attributes.get(attribute))
        written = Written(store, path, self.table_name, attribute, self._told[attribute])
        with self._mutex:
            if not self._given_up:
                self._written.append(written)
                return
        take_back([written])

    def wrote(self, nbytes: int) -> None:
        """Tell that an array has been written."""

    def sends(self, connection: Any, query: str, sent: transactions.Sent) -> None:
        """Take note of a query that is about to be sent while this statement is."""
        if connection is not self._connection or self._sent is not None or not self._ready:
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
            transaction.keep(self._session, self._written)

    def _failed(self, error: BaseException) -> None:
        """Remove the files to which no row refers, if that is certain."""
        if os.getpid() != self._process:
            return  # a forked child that has left the rows' generator: they are the parent's
        with self._mutex:
            written = list(self._written)
        if self._session is not None and written:
            query = self._query if self._was_alone else None
            if not self._session.took_none(written, error, query):
                return
        with self._mutex:
            self._given_up = True
            written, self._written = self._written, []
        take_back(written)


class Update(Statement):
    """One UPDATE."""

    def run(self, send: Callable[[], Any]) -> Any:
        """Have the row encoded and sent; leave no file without a row, if that is certain."""
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
        Whose rows they are.
    skip_duplicates : bool
        Whether the server is to leave out rows that are there already.
    """

    def __init__(self, table: Any, skip_duplicates: bool) -> None:
        super().__init__(table)
        self._ready = False
        self._begun: dict[str, tuple[Task[dict[str, Any]], int]] = {}
        self._bulk = bulk.get()
        self._looks_for_skipped = skip_duplicates and self._bulk is not None
        self._own_transaction = False

    def run(self, rows: Iterable[Any], send: Callable[[Iterable[Any]], Any]) -> Any:
        """
        Have the rows encoded and sent; leave no file without a row, if that is certain.

        `send` takes all rows before it sends anything.
        """
        ahead = None
        if self._bulk is not None:
            workers = self._bulk.max_workers
            ahead = Pipeline(self._steps(rows), workers, _IN_FLIGHT, patient=True)
        watched = self._watched(rows if ahead is None else self._uploaded(ahead))
        with self._transaction():
            try:
                result = call_with({current: self, bulk: None}, lambda: send(watched))
            except BaseException as error:
                if ahead is not None:
                    ahead.close()
                self._failed(error)
                raise
            finally:
                self._begun = {}
            skipped = self._skipped()
        take_back(skipped)
        self._succeeded()
        return result

    def encoded(self, attribute: str) -> dict[str, Any] | None:
        """Return what describes an array of the row that is being encoded, if it was begun."""
        begun = self._begun.pop(attribute, None)
        if begun is None:
            return None
        task, nbytes = begun
        description = task.result()
        self.wrote(nbytes)
        return description

    def wrote(self, nbytes: int) -> None:
        """Tell that an array has been written."""
        if self._bulk is not None:
            self._bulk.wrote(nbytes)

    def _watched(self, rows: Iterable[Any]) -> Iterator[Any]:
        begun = time.monotonic()
        yield from rows
        self._ready = True
        if self._written and time.monotonic() - begun > _QUIET_S:
            # If the server has hung up, that is told while it is certain that nothing was sent.
            self._connection.query("SELECT 1")
        if self._looks_for_skipped:
            # MySQL says with an answer whether there is a transaction. DataJoint may believe in
            # one that a COMMIT of the user's has ended, and then begins no other.
            self._connection.query("SELECT 1")
            if Session(self._connection).in_transaction:
                return
            self._looks_for_skipped = not self._connection.in_transaction
            if self._looks_for_skipped:
                self._own_transaction = True  # before it is: Ctrl-C may come in between
                self._connection.start_transaction()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """End the transaction that was begun for this statement alone."""
        committing = False
        try:
            yield
            if self._own_transaction:
                committing = True
                self._connection.commit_transaction()
        except BaseException:
            if self._own_transaction:
                if not committing:
                    self._succeeded()  # so far: a rollback takes back what it kept
                with suppress(Exception):  # a session that is lost; what was raised is told
                    self._connection.cancel_transaction()
            raise

    def _skipped(self) -> list[Written]:
        """
        Return the files of rows that were there already, while no other session sees the others.

        Once rows are committed another session may move them, and so they would not be found.
        """
        if not self._looks_for_skipped or not self._was_alone or self._session is None:
            return []
        referenced = self._session.referenced(self._written)
        if referenced is None or not self._session.goes_on():
            return []
        skipped = [file for file in self._written if file not in referenced]
        self._written = list(referenced)
        return skipped

    # Side by side

    def _uploaded(self, ahead: Pipeline) -> Iterator[Any]:
        """Yield the rows, their arrays written: :meth:`encoded` returns what describes them."""
        for step in ahead:
            self._begun = {
                attribute: (task, nbytes)
                for task, (attribute, nbytes) in zip(step.tasks, step.item[1], strict=True)
            }
            yield step.item[0]
            self._begun = {}  # what comes next may run an insert of its own

    def _steps(self, rows: Iterable[Any]) -> Iterator[WorkItem]:
        # Whoever makes the rows as they are asked for may make them in the same memory.
        lasting = isinstance(rows, (list, tuple, np.ndarray))
        codecs = _codecs(self._table)
        agreed: set[str | None] = set()
        for given in rows:
            row = given if lasting else _lasting(given)
            if row is None:
                yield WorkItem((given, []), barrier=True)
                continue
            tasks, about, total = [], [], 0
            values = _by_name(self._table, row)
            key = {name: values[name] for name in self._table.primary_key if name in values}
            for attribute, (codec, store) in codecs.items():
                value = values.get(attribute)
                if not isinstance(value, (np.ndarray, NpyRef)):
                    continue
                if store not in agreed:  # the database is asked in this thread, and once
                    identity.written_to(open_store(self._connection._config, store), witness.get())
                    agreed.add(store)
                context = {
                    "schema": self._table.database,
                    "table": self._table.table_name,
                    "field": attribute,
                    "config": self._connection._config,
                }
                tasks.append(Task(_upload(codec, value, key, context, store, self)))
                about.append((attribute, value.nbytes))
                total += min(value.nbytes, _COPIED) if isinstance(value, NpyRef) else value.nbytes
            yield WorkItem((row, about), tasks, total)


def _upload(
    codec: NpyCodec, value: Any, key: Any, context: Any, store: str | None, insertion: Insertion
) -> Callable[[], dict[str, Any]]:
    def upload() -> dict[str, Any]:
        codec.validate(value)
        return codec._write(value, key, context, store, insertion)

    return upload


def _is_told(attribute: Any) -> bool:
    """Whether a row has the path of an attribute's file at the top of a JSON."""
    if attribute is None or attribute.codec is None:
        return False  # of another codec, which has ours write
    _, chain, _ = dj.codecs.resolve_dtype(f"<{attribute.codec.name}>", store_name=attribute.store)
    return type(chain[-1]) is NpyCodec


def _codecs(table: Any) -> dict[str, tuple[NpyCodec, str | None]]:
    """Our codec and the store's name, for each attribute that is ``<npy@>`` itself."""
    found = {}
    for name, attribute in table.heading.attributes.items():
        if attribute.codec is not None and attribute.codec.name == NpyCodec.name:
            _, chain, store = dj.codecs.resolve_dtype(
                f"<{NpyCodec.name}>", store_name=attribute.store
            )
            if len(chain) == 1 and type(chain[0]) is NpyCodec:
                found[name] = chain[0], store
    return found


def _by_name(table: Any, row: Any) -> Mapping[str, Any]:
    """Return the values of a row; none if it is no row, which DataJoint will tell."""
    if isinstance(row, Mapping):
        return row
    if isinstance(row, np.void) and row.dtype.names:
        return {name: row[name] for name in row.dtype.names}
    if isinstance(row, (list, tuple)) and len(row) == len(table.heading):
        return dict(zip(table.heading.names, row, strict=True))
    return {}


def _lasting(row: Any) -> Any:
    """Return a row that stays as it is now; None if that takes too much, or is not to be had."""
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
    if isinstance(value, NpyRef):
        return value
    if isinstance(value, Blocks):
        raise ArrayInvalidError("its blocks come only when they are written")
    if isinstance(value, np.ndarray):
        if value.nbytes > _COPIED:
            raise ArrayInvalidError("too large to be copied")
        if not value.nbytes:  # nothing can change, and a copy of |S0 would be |S1
            return value
        # Of a memory map, deepcopy would make another map; of any other, it keeps the class.
        return np.array(value) if type(value) is np.memmap else copy.deepcopy(value)
    return copy.deepcopy(value)
