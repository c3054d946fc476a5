"""What the rows of a database say about the store of their files."""

import json
import threading
import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from typing import Any

import datajoint as dj

from dj_npy._datajoint.catalog import Snapshot, is_npy, snapshot
from dj_npy._datajoint.outcome import savepoint
from dj_npy._errors import ArrayCorruptError, StoreError
from dj_npy._format.layout import Column
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._stores import Store, identity

_LostConnection: Any = getattr(dj.errors, "LostConnectionError", ())
_NEWEST, _SCANNED = 20, 200
"""Values to check, and the newest rows to search for them: many may be NULL."""
_LOCK_TIMEOUT_S = 2
_ALONE_S, _LOOK_S = 10, 0.05
"""Seconds to wait for another first writer, and between two looks."""


class TableWitness:
    """
    The rows of a table that is written to, and of its schema: an `identity.Witness`.

    Parameters
    ----------
    table : datajoint.Table
        The table.
    """

    def __init__(self, table: Any) -> None:
        self._table, self._connection = table, table.connection
        self.thread = threading.get_ident()
        self.begun: dict[Store, identity.Ids] = {}

    @cached_property
    def key(self) -> Hashable:
        """Identifies the table and its connection."""
        return id(self._connection), self._table.database, self._table.table_name

    def rows(self, store: Store) -> Iterator[list[ArrayMetadata] | None]:
        """Yield rows as `identity.Witness` specifies."""
        default = self._connection._config.stores.get("default")
        try:
            yield list(_referring_rows(store, default, self._newest_values()))
        except _LostConnection:  # the transaction is lost too, which the caller must know
            raise
        except Exception:  # DataJoint's or the driver's: the account may have INSERT only
            yield None
        try:
            # On another connection: an error would end the caller's transaction.
            with snapshot(self._connection) as now:
                now.limit_lock_wait(_LOCK_TIMEOUT_S)
                columns = now.columns([self._table.database])
                yield list(_referring_rows(store, default, _newest_of(now, columns)))
        except Exception:
            yield None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """
        Keep others out as `identity.Witness` specifies, for as long as the server can be asked.

        A server that ignores conditions, and a disk without hard links, cannot do it themselves.
        """
        with ExitStack() as held:
            with suppress(Exception):  # DataJoint's or the driver's: then it is only less likely
                now = held.enter_context(snapshot(self._connection))
                until = time.monotonic() + _ALONE_S
                while not now.try_lock("first write") and time.monotonic() < until:
                    time.sleep(_LOOK_S)
            yield

    def _newest_values(self) -> Iterator[Any]:
        """Return the newest values, read on the insert's connection, which sees its own changes."""
        connection, heading = self._connection, self._table.heading
        found: list[Any] = []
        with savepoint(connection._conn, connection.adapter.backend == "postgresql"):
            for name, attribute in heading.attributes.items():
                if attribute.codec is not None and is_npy(attribute.codec, attribute.store):
                    table, key = self._table.full_table_name, self._table.primary_key
                    sql = _newest(connection.adapter, table, name, key)
                    found += connection.query(sql.replace("%", "%%")).fetchall()
        return (value for (value,) in found)


def check_stores(connection: Any, columns: Sequence[Column], stores: Iterable[Store]) -> None:
    """
    Raise if a store is not the one that the rows of some columns mean.

    Raises
    ------
    StoreError
        If one is not: says what was found and expected.
    """
    default = connection._config.stores.get("default")
    with snapshot(connection) as now:
        values = list(_newest_of(now, columns))
    for store in stores:
        rows = list(_referring_rows(store, default, values))
        reason = identity.contradiction(store, identity.read(store), rows)
        if reason is not None:
            raise StoreError(f"refused to collect {reason}. Nothing was removed")


def rows_of(
    now: Snapshot, columns: Iterable[Column], store: Store, default: Any
) -> Iterator[ArrayMetadata]:
    """Yield every row of some columns that refers to a store."""
    for column in columns:
        yield from _referring_rows(store, default, (row[-1] for row in now.rows(column)))


def _newest_of(now: Snapshot, columns: Iterable[Column]) -> Iterator[Any]:
    quote = now.adapter.quote_identifier
    for column in columns:
        table = f"{quote(column.schema)}.{quote(column.table)}"
        for (value,) in now.select(_newest(now.adapter, table, column.attribute, column.key)):
            yield value


def _newest(adapter: Any, table: str, attribute: str, key: Sequence[str]) -> str:
    name = adapter.quote_identifier(attribute)
    order = ", ".join(f"{adapter.quote_identifier(each)} DESC" for each in key)
    return (
        f"SELECT {name} FROM (SELECT {name} FROM {table}{f' ORDER BY {order}' if order else ''} "
        f"LIMIT {_SCANNED}) AS newest WHERE {name} IS NOT NULL LIMIT {_NEWEST}"
    )


def _referring_rows(store: Store, default: Any, values: Iterable[Any]) -> Iterator[ArrayMetadata]:
    """Yield the rows that refer to a store, from values of columns."""
    for value in values:
        try:
            row = ArrayMetadata(json.loads(value) if isinstance(value, str) else value)
            if (row.store or default) == store.name and row.path:
                yield row
        except (ArrayCorruptError, ValueError, RecursionError):  # not ours, or invalid
            continue
