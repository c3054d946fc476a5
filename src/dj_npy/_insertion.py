"""One INSERT of rows with arrays: what it has written, and what becomes of that if it fails."""

import copy
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from datajoint.codecs import resolve_dtype

from dj_npy import _identity as identity
from dj_npy._ahead import Ahead, Step, Task
from dj_npy._blocks import Blocks
from dj_npy._codec import NpyCodec, Written, current
from dj_npy._errors import ArrayInvalidError, NpyError
from dj_npy._ref import NpyRef
from dj_npy._stores import open_store
from dj_npy._stores.threads import all_in_threads

_IN_FLIGHT = 256 << 20
"""Bytes of arrays that are uploaded side by side; a larger one goes alone."""
_COPIED = 64 << 20
"""
Bytes up to which an array is copied that may change once the next row is asked for.

A larger one is written before that; its own parts go side by side.
"""
_ANSWERED = (0, 2, 3)
"""libpq's PQTRANS_IDLE, _INTRANS and _INERROR; lost or busy sessions are of another."""
_IN_TRANSACTION, _STATUS_IN_TRANS = 2, 1
"""What libpq, and the protocol of MySQL, call a session in a transaction that is well."""
_QUIET_S = 1
"""How long the database is not spoken to before it is asked whether it is still there."""
_REMOVALS = 16
_PATHS = 500
"""How many paths are looked for by one query."""


class Bulk(NamedTuple):
    """How the rows of an insert are to be uploaded side by side."""

    max_workers: int
    skip_duplicates: bool
    wrote: Callable[[int], object]
    """Called with the bytes of each array that has been written."""


bulk: ContextVar[Bulk | None] = ContextVar("bulk", default=None)
"""While set: an insert uploads its arrays side by side."""


class Insertion:
    """
    One INSERT statement in the making.

    Parameters
    ----------
    table : datajoint.Table
        Where the rows go.
    """

    def __init__(self, table: Any) -> None:
        self._table = table
        self._connection = table.connection
        self._session: Any = None  # that is asked, once all rows are taken
        self._in_transaction = False
        self._all_taken = False
        self._written: list[Written] = []
        self._given_up = False
        self._mutex = threading.Lock()
        self._begun: dict[str, tuple[Task[dict[str, Any]], int]] = {}
        self._bulk = bulk.get()

    def run(self, rows: Iterable[Any], send: Callable[[Iterable[Any]], Any]) -> Any:
        """
        Have the rows encoded and sent; leave no file that no row refers to, if that can be known.

        `send` takes all rows before it sends anything. If it fails before, nothing was sent. If
        it fails after, nothing was inserted if that was in a transaction, as a lost one is rolled
        back, or if the same session still answers: DataJoint sends a statement again after a
        lost connection, and a duplicate, even, may then be the row of its first attempt. An
        interrupt may come after the row is there.
        """
        ahead = None
        if self._bulk is not None:
            workers = self._bulk.max_workers
            ahead = Ahead(self._steps(rows), workers, _IN_FLIGHT, patient=True)
        among, alone = current.set(self), bulk.set(None)
        try:
            result = send(self._watched(rows if ahead is None else self._uploaded(ahead)))
        except BaseException as error:
            if ahead is not None:
                ahead.close()
            if not self._all_taken or self._refused(error):
                self._undo()
            raise
        finally:
            self._begun = {}
            current.reset(among)
            bulk.reset(alone)
        if self._bulk and self._bulk.skip_duplicates:
            self._remove(self._unused())
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

    def note(self, written: Written) -> None:
        """Remember a file, or remove it if it comes too late."""
        with self._mutex:
            if not self._given_up:
                self._written.append(written)
                return
        self._remove([written])

    def wrote(self, nbytes: int) -> None:
        """Tell that an array has been written."""
        if self._bulk is not None:
            self._bulk.wrote(nbytes)

    def _watched(self, rows: Iterable[Any]) -> Iterator[Any]:
        begun = time.monotonic()
        yield from rows
        if self._written and time.monotonic() - begun > _QUIET_S:
            # If the server has hung up, that is told while it is certain that nothing was sent.
            self._connection.query("SELECT 1")
        self._session = self._connection._conn
        # `Connection.in_transaction` would ask the server, and believe in one that is lost.
        self._in_transaction = self._connection._in_transaction and self._server_says_so()
        self._all_taken = True

    def _server_says_so(self) -> bool:
        """Whether the session was in a transaction when it was last heard of."""
        if self._connection.adapter.backend == "postgresql":
            return bool(self._session.info.transaction_status == _IN_TRANSACTION)
        return bool(self._session.server_status & _STATUS_IN_TRANS)

    # Side by side

    def _uploaded(self, ahead: Ahead) -> Iterator[Any]:
        """Yield the rows, their arrays written: :meth:`encoded` returns what describes them."""
        for step in ahead:
            self._begun = {
                attribute: (task, nbytes)
                for task, (attribute, nbytes) in zip(step.tasks, step.item[1], strict=True)
            }
            yield step.item[0]
            self._begun = {}  # what comes next may run an insert of its own

    def _steps(self, rows: Iterable[Any]) -> Iterator[Step]:
        # Whoever makes the rows as they are asked for may make them in the same memory.
        lasting = isinstance(rows, (list, tuple, np.ndarray))
        codecs = _codecs(self._table)
        agreed: set[str | None] = set()
        for given in rows:
            row = given if lasting else _lasting(given)
            if row is None:
                yield Step((given, []), alone=True)
                continue
            tasks, about, total = [], [], 0
            values = _by_name(self._table, row)
            key = {name: values[name] for name in self._table.primary_key if name in values}
            for attribute, (codec, store) in codecs.items():
                value = values.get(attribute)
                if not isinstance(value, (np.ndarray, NpyRef)):
                    continue
                if store not in agreed:  # the database is asked in this thread, and once
                    identity.written_to(open_store(self._connection._config, store))
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
            yield Step((row, about), tasks, total)

    # Taking back

    def _refused(self, error: BaseException) -> bool:
        """Whether the database has said no, and to the only attempt."""
        session = self._session
        if not isinstance(error, Exception):
            return False
        if self._in_transaction:
            return True
        if self._connection._conn is not session:
            return False
        # `Connection.is_connected` is true whatever has happened. Of psycopg2, libpq tells, and
        # in a failed transaction, too, where the server would not answer.
        if self._connection.adapter.backend == "postgresql":
            return session.info.transaction_status in _ANSWERED
        return bool(self._connection.adapter.ping(session))

    def _undo(self) -> None:
        with self._mutex:
            self._given_up = True
            written, self._written = self._written, []
        self._remove(written)

    def _remove(self, written: Iterable[Written]) -> None:
        refused = []

        def remove(file: Written) -> bool:
            try:
                file.store.remove(file.path)
            except NpyError:  # an orphan; what went wrong is what the user has to know
                refused.append(file)
            # So many: the server has died, and each may take as long as to find that out.
            return len(refused) < _REMOVALS

        all_in_threads(remove, written, _REMOVALS)

    def _unused(self) -> Iterator[Written]:
        """Yield the files to which no row refers, as their rows were duplicates."""
        for attribute in {file.attribute for file in self._written}:
            files = (file for file in self._written if file.attribute == attribute)
            while some := list(islice(files, _PATHS)):
                used = self._used(attribute, [file.path for file in some])
                yield from (file for file in some if file.path not in used)

    def _used(self, attribute: str, paths: list[str]) -> set[str]:
        adapter = self._connection.adapter
        column = adapter.quote_identifier(attribute)
        # DataJoint's own expression is cut at 512 characters on MySQL, and then is NULL.
        path = (
            f"{column} ->> 'path'"
            if adapter.backend == "postgresql"
            else f"JSON_UNQUOTE(JSON_EXTRACT({column}, '$.path'))"
        )
        query = (
            f"SELECT {path} FROM {self._table.full_table_name} "
            f"WHERE {path} IN ({','.join(['%s'] * len(paths))})"
        )
        return {row[0] for row in self._connection.query(query, args=paths)}


def _upload(
    codec: NpyCodec, value: Any, key: Any, context: Any, store: str | None, insertion: Insertion
) -> Callable[[], dict[str, Any]]:
    def upload() -> dict[str, Any]:
        codec.validate(value)
        description, written = codec._write(value, key, context, store)
        insertion.note(written)
        return description

    return upload


def _codecs(table: Any) -> dict[str, tuple[NpyCodec, str | None]]:
    """Our codec and the store's name, for each attribute that is ``<npy@>`` itself."""
    found = {}
    for name, attribute in table.heading.attributes.items():
        if attribute.codec is not None and attribute.codec.name == NpyCodec.name:
            _, chain, store = resolve_dtype(f"<{NpyCodec.name}>", store_name=attribute.store)
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
        # Of a memory map, deepcopy would make another map; of any other, it keeps the class.
        return np.array(value) if type(value) is np.memmap else copy.deepcopy(value)
    return copy.deepcopy(value)
