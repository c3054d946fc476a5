"""A column and its twin, in which its arrays are written anew, until the two change names."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, Literal

import datajoint as dj

from dj_npy._datajoint.catalog import another_session
from dj_npy._errors import ArrayInvalidError, StoreError

State = Literal["not begun", "copying", "switched"]

_LONGEST_NAME = {"postgresql": 63, "mysql": 64}
_PARTS = ("new", "old", "same")
_MARK = "dj-npy migrate "
"""Beginning of the comment of the column that tells which rows are equal."""
_FLOATS = ("float", "double", "real")
_AT_ONCE = 2000
"""Rows per fetch."""
_TIMED_OUT = re.compile("lock (wait )?time-?out|due to lock", re.IGNORECASE)
_LOCK_WAIT_S = 3
"""Seconds that readers may have to wait behind a change of the table that waits itself."""
TRIES, PAUSE_S = 10, 1
"""How often a change tries to get the table for itself, and seconds between."""

# Whether the twin of a row has what the column has: nobody has changed the row since. PostgreSQL
# tells the transaction that wrote a row; in MySQL, each change of a row sets the time of the
# change, unless it sets another one, as ours do.
_SAME_TYPE = {
    "postgresql": "BIGINT",
    "mysql": "DATETIME(6) NULL DEFAULT NULL ON UPDATE CURRENT_TIMESTAMP(6)",
}
_VERSION = {"postgresql": "CAST(CAST(xmin AS TEXT) AS BIGINT)", "mysql": "{same}"}
_IS_SAME = {
    "postgresql": "{same} = CAST(CAST(xmin AS TEXT) AS BIGINT)",
    "mysql": "{same} = '2000-01-01'",
}
_SAME = {"postgresql": "mod(txid_current(), 4294967296)", "mysql": "'2000-01-01'"}
_CHECKSUM = {"postgresql": "encode(sha256({}), 'hex')", "mysql": "sha2({}, 256)"}
_CLAIMED = "'1000-01-01'"


def is_bytes(attribute: Any) -> bool:
    """Whether a column has bytes; DataJoint does not tell so of PostgreSQL's without a codec."""
    return bool(attribute.is_blob) or str(attribute.type).lower() == "bytea"


class TableInUseError(StoreError):
    """Others have the table, and one should not keep them waiting."""


class Session:
    """
    A connection of its own, on which the caller begins and ends transactions.

    Raises what DataJoint raises for the database's errors.

    Parameters
    ----------
    connection : datajoint.Connection
        Its own.
    """

    def __init__(self, connection: Any) -> None:
        self.connection, self._raw = connection, connection._conn
        self.adapter, self.backend = connection.adapter, connection.adapter.backend
        self.held = False
        """Whether the transaction has to go on."""
        if self.backend == "postgresql":
            self._raw.autocommit = False
        else:
            self._raw.autocommit(False)
            self.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            with suppress(Exception):  # else each row is logged twice; few accounts may
                self.execute("SET SESSION binlog_row_image = 'minimal'")

    def execute(self, query: str, values: Sequence[Any] = ()) -> int:
        """Return how many rows it was about."""
        with self._translated(query), self._raw.cursor() as cursor:
            cursor.execute(query, tuple(values))
            return int(cursor.rowcount)

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self._translated(query), self._raw.cursor() as cursor:
            cursor.execute(query, tuple(values))
            return list(cursor.fetchall())

    def stream(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query; nothing else may be asked meanwhile."""
        if self.backend == "postgresql":
            cursor = self._raw.cursor(name="dj_npy_migrate")
        else:
            from pymysql.cursors import SSCursor

            cursor = self._raw.cursor(SSCursor)
        with self._translated(query), cursor:
            cursor.execute(query, ())
            while rows := cursor.fetchmany(_AT_ONCE):
                yield from rows

    def commit(self) -> None:
        """End the transaction, unless a table is locked in it."""
        if self.held:
            return
        with self._translated("COMMIT"):
            self._raw.commit()

    def rollback(self) -> None:
        """Give up the transaction."""
        with suppress(Exception):
            self._raw.rollback()

    @contextmanager
    def _translated(self, query: str) -> Iterator[None]:
        try:
            yield
        except dj.DataJointError:
            raise
        except GeneratorExit:
            raise
        except Exception as error:
            self.rollback()
            raise dj.connection.translate_query_error(error, query, self.adapter) from error


@contextmanager
def session(connection: Any) -> Iterator[Session]:
    """Open another session."""
    with another_session(connection) as own:
        opened = Session(own)
        try:
            yield opened
        finally:
            opened.rollback()


class Twin:
    """
    An attribute and its hidden columns, as they were when this was made.

    ``_waveform_new`` is its twin before the two change names, ``_waveform_old`` after;
    ``_waveform_same`` tells in which rows the two are equal.

    Parameters
    ----------
    session : Session
        Where it is changed.
    table : datajoint.Table
        The table.
    attribute : str
        Its attribute.
    """

    def __init__(self, session: Session, table: Any, attribute: str) -> None:
        self.session, self.name, self._backend = session, attribute, session.backend
        self._new, self._old, self._same = (f"_{attribute}_{part}" for part in _PARTS)
        heading = dj.FreeTable(table.connection, table.full_table_name).heading
        self.key: tuple[str, ...] = tuple(heading.primary_key)  # which loads the heading
        columns = heading._attributes  # with the hidden ones
        self.table_name = f"{table.database}.{table.table_name}"
        self._table = table.full_table_name.replace("%", "%%")
        self._at = table.database, table.table_name
        self.attribute = columns[attribute]
        """The attribute, as DataJoint has it."""
        self._float_key = {
            name for name in self.key if str(columns[name].type).lower().startswith(_FLOATS)
        }
        self._others = [
            name
            for name, each in columns.items()
            if name != self._same and str(each.comment or "").startswith(_MARK)
        ]
        """What tells the same of other attributes."""
        taken = {self._new, self._old, self._same} & columns.keys()
        mark = columns[self._same].comment if self._same in columns else ""
        self.state: State = "not begun"
        if taken:
            if not mark.startswith(_MARK) or len(taken) != 2:
                raise ArrayInvalidError(
                    f"{self.table_name} has columns of names that dj_npy.migrate uses, and did "
                    f"not make: {', '.join(sorted(taken))}. Rename them first"
                )
            self.state = "copying" if self._new in taken else "switched"
        self.twin = columns.get(self._new) or columns.get(self._old)
        """Its twin, as an attribute; None if there is none."""
        self.nullable = bool(
            json.loads(mark.removeprefix(_MARK))["nullable"] if mark else self.attribute.nullable
        )
        """Whether the attribute may be NULL, by its definition."""

    # Changes of the table

    def begin(self, spec: str) -> None:
        """Add a twin of the type ``<npy@main>`` or ``<blob>``."""
        longest = _LONGEST_NAME[self._backend]
        if len(self._same.encode()) > longest:
            raise ArrayInvalidError(
                f"the name of attribute {self.name} is too long: {self._same} would have more than "
                f"{longest} bytes"
            )
        adapter, quote = self.session.adapter, self._quoted
        sql_type = adapter.core_type_to_sql("json" if spec.startswith("<npy") else "bytes")
        comment = f":{spec}:{self.attribute.comment or ''}"
        mark = _MARK + json.dumps({"nullable": self.nullable})
        new, same, same_type = quote(self._new), quote(self._same), _SAME_TYPE[self._backend]
        change = f"ALTER TABLE {self._table}"
        if self._backend == "postgresql":
            self._alter(
                f"{change} ADD COLUMN {new} {sql_type} NULL, ADD COLUMN {same} {same_type} NULL"
            )
            for column, text in ((new, comment), (same, mark)):
                self.session.execute(f"COMMENT ON COLUMN {self._table}.{column} IS %s", [text])
        else:
            self._alter(
                f"{change} ADD COLUMN {new} {sql_type} NULL COMMENT %s AFTER {quote(self.name)}, "
                f"ADD COLUMN {same} {same_type} COMMENT %s",
                [comment, mark],
            )
        self.session.commit()

    def drop(self) -> None:
        """Remove the twin: the attribute is what it is, for good."""
        quote = self._quoted
        changes = [f"DROP COLUMN {quote(self.twin.name)}", f"DROP COLUMN {quote(self._same)}"]
        values: list[str] = []
        if self.state == "switched" and not self.nullable:
            if self._backend == "postgresql":
                changes.append(f"ALTER COLUMN {quote(self.name)} SET NOT NULL")
            else:
                described, values = self._described(self.name, "NOT NULL")
                changes.append(f"MODIFY COLUMN {quote(self.name)} {described}")
        self._alter(f"ALTER TABLE {self._table} {', '.join(changes)}", values)
        self.session.commit()

    def _alter(self, change: str, values: Sequence[str] = ()) -> None:
        """Change the table, as soon as nobody has it in a transaction that stays open."""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE_S)
            try:
                self._when_free(change, values)
                break
            except TableInUseError:
                if attempt == TRIES - 1:
                    raise

    def _when_free(self, statement: str, values: Sequence[str] = ()) -> None:
        """
        Send a statement that has to wait for all transactions which use the table.

        Raises
        ------
        TableInUseError
            If they took some seconds, during which all who came later had to wait, too.
        """
        try:
            if self._backend == "postgresql":
                self.session.execute(f"SET LOCAL lock_timeout = '{_LOCK_WAIT_S}s'")
            else:
                self.session.execute(f"SET SESSION lock_wait_timeout = {_LOCK_WAIT_S}")
            self.session.execute(statement, values)
        except Exception as error:
            if _TIMED_OUT.search(str(error)):
                self.session.rollback()
                raise TableInUseError(
                    f"others use {self.table_name} all the time, or leave a transaction open. "
                    f"What was copied is kept, and nothing else was changed. Try again"
                ) from error
            raise

    def lock(self) -> None:
        """
        Keep everybody else out of the table, until `keep` or `unlock`.

        Raises `TableInUseError`.
        """
        if self._backend == "postgresql":
            self._when_free(f"LOCK TABLE {self._table} IN ACCESS EXCLUSIVE MODE")
            self.session.held = True
        else:
            self._when_free(f"LOCK TABLES {self._table} WRITE")

    def keep(self) -> None:
        """Let what was done under the lock be so for all."""
        self.session.held = False
        self.session.commit()

    def unlock(self) -> None:
        """Let others in again."""
        self.session.held = False
        self.session.rollback()
        if self._backend == "mysql":
            with suppress(Exception):  # a lost connection has none
                self.session.execute("UNLOCK TABLES")

    def switch(self) -> None:
        """Let the attribute and its twin change names, for all at the same moment."""
        back = self.state == "switched"
        leaving, coming = (self._new if back else self._old), self.twin.name
        quote = self._quoted
        if self._backend == "postgresql":
            change = f"ALTER TABLE {self._table}"
            for old, new in ((self.name, leaving), (coming, self.name)):
                self.session.execute(f"{change} RENAME COLUMN {quote(old)} TO {quote(new)}")
            if not self.nullable:
                column, verb = (self.name, "SET") if back else (leaving, "DROP")
                self.session.execute(f"{change} ALTER COLUMN {quote(column)} {verb} NOT NULL")
            return
        # Rows that are inserted later have none of the old. NULL would rewrite the table.
        empty = "json_object()" if self.attribute.json else "x''"
        bound = not self.nullable
        old, old_values = self._described(
            self.name, f"NOT NULL DEFAULT ({empty})" if bound and not back else "NULL"
        )
        new, new_values = self._described(coming, "NOT NULL" if bound and back else "NULL")
        self.session.execute(
            f"ALTER TABLE {self._table} "
            f"CHANGE COLUMN {quote(self.name)} {quote(leaving)} {old}, "
            f"CHANGE COLUMN {quote(coming)} {quote(self.name)} {new}",
            [*old_values, *new_values],
        )

    def _described(self, column: str, null: str) -> tuple[str, list[str]]:
        """Return a column of MySQL's as its definition says, and the comment in it."""
        [(sql_type, comment)] = self.session.rows(
            "SELECT column_type, column_comment FROM information_schema.columns "
            "WHERE (table_schema, table_name, column_name) = (%s, %s, %s)",
            [*self._at, column],
        )
        sql_type = sql_type.decode() if isinstance(sql_type, bytes) else sql_type
        is_json = (self.attribute if column == self.name else self.twin).json
        # MariaDB has a JSON as a text with a condition.
        return f"{'json' if is_json else sql_type} {null} COMMENT %s", [comment]

    # Rows

    def to_do(self) -> Iterator[tuple[Any, ...]]:
        """Yield the keys of the rows whose twin is not what the attribute is."""
        return self.session.stream(f"SELECT {self._key_columns} FROM {self._table} {self._is_open}")

    def count_to_do(self) -> int:
        """Return the number of these rows."""
        [(count,)] = self.session.rows(f"SELECT count(*) FROM {self._table} {self._is_open}")
        return int(count)

    def count_missing(self) -> int:
        """Return the number of rows without the attribute."""
        name = self._quoted(self.name)
        [(count,)] = self.session.rows(f"SELECT count(*) FROM {self._table} WHERE {name} IS NULL")
        return int(count)

    def claim(self, keys: Sequence[tuple[Any, ...]]) -> None:
        """Make sure that any change of these rows will be noticed by `write`."""
        if self._backend == "mysql":
            where, values = self._among(keys)
            self.session.execute(
                f"UPDATE {self._table} SET {self._quoted(self._same)} = {_CLAIMED}{self._kept} "
                f"{self._is_open} AND {where}",
                values,
            )
            self.session.commit()

    def sizes(self, keys: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Return keys, each with the bytes of the attribute in its row."""
        return self._select(keys, f"coalesce(octet_length({self._value}), 0)")

    def read(self, keys: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Return keys, each with the version of its row, and the attribute in it."""
        return self._select(keys, f"{self._version}, {self._value}")

    def write(self, key: tuple[Any, ...], version: Any, value: Any) -> bool:
        """Set the twin in a row, if it still is of this version; return whether it is."""
        where, values = self._among([key])
        changes = f"{self._quoted(self.twin.name)} = %s, {self._quoted(self._same)} = "
        query = (
            f"UPDATE {self._table} SET {changes}{_SAME[self._backend]}{self._kept} "
            f"WHERE {where} AND {self._version} = %s"
        )
        return self.session.execute(query, [value, *values, version]) > 0

    def has(self, key: tuple[Any, ...], checksum: str) -> bool:
        """Return whether the twin in a row has bytes of this SHA-256, by the server."""
        name = self._quoted(self.twin.name)
        [found] = self._select([key], _CHECKSUM[self._backend].format(name))
        return bool(found[-1] == checksum)

    def twins(self) -> Iterator[tuple[Any, ...]]:
        """Yield what is in the twin, one value in a row."""
        name = self._quoted(self.twin.name)
        text = name if is_bytes(self.twin) else self._as_text(name)
        return self.session.stream(f"SELECT {text} FROM {self._table} WHERE {name} IS NOT NULL")

    def _select(self, keys: Sequence[tuple[Any, ...]], columns: str) -> list[tuple[Any, ...]]:
        where, values = self._among(keys)
        return self.session.rows(
            f"SELECT {self._key_columns}, {columns} FROM {self._table} WHERE {where}", values
        )

    @cached_property
    def _is_open(self) -> str:
        """The rows that are to do, also those of NULL: MySQL would read a blob to tell."""
        same = _IS_SAME[self._backend].format(same=self._quoted(self._same))
        return f"WHERE ({same}) IS NOT TRUE"

    @cached_property
    def _kept(self) -> str:
        """What keeps a change of ours from being one for other attributes with a twin."""
        kept = []
        for name in map(self._quoted, self._others):
            is_same = _IS_SAME[self._backend].format(same=name)
            same = f"CASE WHEN {is_same} THEN {_SAME[self._backend]} ELSE {name} END"
            kept.append(f", {name} = {same}")
        return "".join(kept)

    @cached_property
    def _version(self) -> str:
        return _VERSION[self._backend].format(same=self._quoted(self._same))

    @cached_property
    def _value(self) -> str:
        name = self._quoted(self.name)
        return name if is_bytes(self.attribute) else self._as_text(name)

    @cached_property
    def _key_columns(self) -> str:
        return ", ".join(map(self._key_column, self.key))

    def _key_column(self, name: str) -> str:
        # Servers do not find a single-precision float by what they print of it.
        quoted = self._quoted(name)
        return f"({quoted} + 0e0)" if name in self._float_key else quoted

    def _among(self, keys: Sequence[tuple[Any, ...]]) -> tuple[str, list[Any]]:
        if not self.key:  # a table of at most one row
            return "TRUE", []
        one = f"({', '.join(['%s'] * len(self.key))})"
        columns = f"({self._key_columns})"
        return f"{columns} IN ({', '.join([one] * len(keys))})", [v for key in keys for v in key]

    def _as_text(self, name: str) -> str:
        return f"CAST({name} AS {'TEXT' if self._backend == 'postgresql' else 'CHAR'})"

    def _quoted(self, name: str) -> str:
        return str(self.session.adapter.quote_identifier(name)).replace("%", "%%")
