"""Read ``<npy@>`` columns and their rows from a database, all in one snapshot."""

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, Literal

import datajoint as dj
from datajoint.errors import DataJointError

from dj_npy._datajoint.codec import NpyCodec
from dj_npy._errors import ArrayInvalidError, StoreError
from dj_npy._format.layout import Column
from dj_npy._format.mentions import mentions
from dj_npy._text import kind_of

_AT_ONCE = 2000
"""Rows per fetch."""
_CODEC_COMMENT = re.compile(r":(<[^:]+>):")
"""DataJoint stores an attribute's codec at the start of its comment."""

# PostgreSQL's catalog itself: `information_schema` hides what the account must not read, which
# should be an error.
_COLUMNS = {
    "postgresql": """
        SELECT n.nspname, c.relname, a.attname,
               CASE WHEN t.typname <> 'bytea' AND (t.typcategory IN ('S', 'U', 'C')
                         OR t.typcategory = 'A' AND coalesce(e.typcategory, 'U') IN ('S', 'U', 'C'))
                    THEN 'text' ELSE t.typname END,
               col_description(c.oid, a.attnum),
               coalesce(a.attnum = ANY(i.indkey), false)
        FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem
        LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary
        WHERE c.relkind IN ('r', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped
          AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        ORDER BY n.nspname, c.relname, a.attnum""",
    "mysql": """
        SELECT c.table_schema, c.table_name, c.column_name, c.data_type, c.column_comment,
               c.column_key = 'PRI'
        FROM information_schema.columns c
        JOIN information_schema.tables t
          ON t.table_schema = c.table_schema AND t.table_name = c.table_name
        WHERE t.table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')
          AND CAST(c.table_schema AS BINARY) NOT IN  -- there may be a schema `Sys`
              ('information_schema', 'mysql', 'performance_schema', 'sys')
        ORDER BY c.table_schema, c.table_name, c.ordinal_position""",
}
_VERSIONED = """
    SELECT table_schema, table_name FROM information_schema.tables
    WHERE table_type = 'SYSTEM VERSIONED'"""
_TEXTS = {"json", "longtext", "mediumtext", "text", "tinytext", "varchar", "char"}
"""
Types that may contain a path: JSON, and what it may have been altered or copied to.

For PostgreSQL: text, composite and user-defined types, and arrays of these; not bytea.
"""
# Some types keep JSON as written, so any of its characters may be escaped.
_MENTIONS = {
    "postgresql": """{0} ILIKE '%.npy%' OR {0} LIKE '%is_dir%'
        OR strpos({0}, chr(92) || 'u00') > 0""",
    "mysql": """lower({0}) LIKE '%.npy%' OR {0} LIKE '%is_dir%'
        OR locate(concat(char(92), 'u00'), {0}) > 0""",
}
_STORE = {
    "postgresql": """substring(CAST({0} AS TEXT) FROM '"store" *: *"[^"]*"')""",
    "mysql": """regexp_substr(CAST({0} AS CHAR), '"store" *: *"[^"]*"')""",
}
"""What a JSON says of its store; searched, as it may be invalid."""
_REWRITTEN = """
    SELECT n.nspname, c.relname FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND c.relfilenode <> pg_relation_filenode(c.oid)"""
"""
PostgreSQL tables that were rewritten since the snapshot, in which they seem empty then.

`relfilenode` is that of the snapshot, `pg_relation_filenode` the current one.
"""
_LOCK = {
    "postgresql": "SELECT pg_try_advisory_lock(hashtext('dj-npy {}'))",
    "mysql": "SELECT get_lock('dj-npy {}', 0)",
}
_UNLOCK = {
    "postgresql": "SELECT pg_advisory_unlock_all()",
    "mysql": "DO release_all_locks()",
}


def class_name(table: str) -> str:
    """Return the name of a table's class: ``Session.Trial`` for ``session__trial``."""
    return ".".join(map(dj.utils.to_camel_case, table.lstrip("#_").split("__")))


def is_npy(codec: Any, store: str | None) -> bool:
    """Whether a codec's column in the database has the JSON of an ``<npy@>`` value."""
    if codec is None:
        return False
    try:
        _, chain, _ = dj.codecs.resolve_dtype(f"<{codec.name}>", store_name=store)
    except DataJointError:  # not registered here
        return False
    return any(isinstance(each, NpyCodec) for each in chain)


class Snapshot:
    """
    A snapshot of a database: a row that moves between tables is seen in exactly one.

    Created by :func:`snapshot`. Raises what the database raises; nothing is skipped silently.

    Parameters
    ----------
    connection : datajoint.Connection
        Its own, in an open transaction.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.adapter, self._raw = connection.adapter, connection._conn
        self.backend: str = connection.adapter.backend
        self._column_rows: list[Any] | None = None
        self._locks = False

    def attributes(self, schemas: Iterable[str]) -> set[tuple[str, str, str]]:
        """Return schema, table and name of all attributes of these schemas; ignores case."""
        wanted = {schema.casefold() for schema in schemas}
        return {tuple(each[:3]) for each in self._all_columns() if each[0].casefold() in wanted}

    def kinds(self, schema: str) -> dict[tuple[str, str], str]:
        """Return the server's own type of each attribute of a schema, by table and name."""
        return {(each[1], each[2]): each[3] for each in self._all_columns() if each[0] == schema}

    @cached_property
    def caseless(self) -> bool:
        """Whether names of schemas and tables ignore case: MySQL on Windows and macOS."""
        if self.backend == "postgresql":
            return False
        [(kept,)] = self.select("SELECT @@lower_case_table_names")
        return int(kept) > 0

    def schemas(self) -> list[str]:
        """Return the names of all schemas with a table in them."""
        return sorted({each[0] for each in self._all_columns()})

    def columns(self, schemas: Iterable[str]) -> list[Column]:
        """Return the ``<npy@>`` columns of some schemas, declared in this process or not."""
        asked_names = {self._normalized(name): name for name in schemas}
        described = [
            each for each in self._all_columns() if self._normalized(each[0]) in asked_names
        ]
        found = []
        if missing := {*asked_names} - {self._normalized(each[0]) for each in described}:
            names = ", ".join(sorted(repr(asked_names[each]) for each in missing))
            raise ArrayInvalidError(
                f"no schema {names} with a table in it is visible to this account"
            )
        for schema, table, attribute, _, comment, _ in described:
            codec_comment = _CODEC_COMMENT.match(comment or "")
            if codec_comment is None:
                continue
            try:
                codec, store = dj.codecs.lookup_codec(codec_comment[1])
            except DataJointError:
                continue
            if is_npy(codec, store):
                key = [each[2] for each in described if each[:2] == (schema, table) and each[5]]
                # DataJoint hides names that begin so, such as the key of a table without one.
                key = [name for name in key if not name.startswith("_")]
                found.append(Column(schema, table, attribute, tuple(key), store or None))
        return found

    def rows(self, column: Column) -> Iterator[tuple[Any, ...]]:
        """Yield the key and the JSON, as text, of each row with a value."""
        quote = self.adapter.quote_identifier
        attribute = quote(column.attribute)
        names = ", ".join([*map(quote, column.key), attribute])
        return self.select(
            f"SELECT {names} FROM {quote(column.schema)}.{quote(column.table)} "
            f"WHERE {attribute} IS NOT NULL"
        )

    def stores(self, columns: Iterable[Column]) -> set[str]:
        """Return the names of the stores that the rows of some columns name."""
        quote = self.adapter.quote_identifier
        found = set()
        for column in columns:
            store = _STORE[self.backend].format(quote(column.attribute))
            table = f"{quote(column.schema)}.{quote(column.table)}"
            for (said,) in self.select(f"SELECT DISTINCT {store} FROM {table}", ()):
                if said:
                    found.add(said.split('"')[3])
        return found

    def references(self) -> Iterator[str]:
        """
        Yield every path to a ``.npy`` file or folder in any JSON or text of any table.

        Not only of known ``<npy@>`` columns: a codec may not be registered here, and rows may be
        copied.

        Raises
        ------
        StoreError
            If a value cannot be read, or a table may have seemed empty.
        """
        quote = self.adapter.quote_identifier
        # Former rows of MariaDB can be queried, and so be copied.
        versioned = set(() if self.backend == "postgresql" else self.select(_VERSIONED))
        for schema, table, attribute, kind, _, _ in self._all_columns():
            if kind not in _TEXTS:
                continue
            column = quote(attribute)
            text = f"CAST({column} AS {'TEXT' if self.backend == 'postgresql' else 'CHAR'})"
            rows = f"{quote(schema)}.{quote(table)}"
            if (schema, table) in versioned:
                rows += " FOR SYSTEM_TIME ALL"
            where = _MENTIONS[self.backend].format(text)
            if self.backend == "mysql":
                # MySQL returns NULL or '' for a value longer than its max_allowed_packet.
                something = "IS NOT NULL" if kind == "json" else "<> ''"
                where += f" OR (coalesce({text}, '') = '' AND {column} {something})"
            try:
                for (value,) in self.select(f"SELECT {text} FROM {rows} WHERE {where}"):
                    if not value:
                        raise StoreError(
                            f"could not read what {schema}.{table}.{attribute} refers to: a value "
                            f"is longer than the server's max_allowed_packet. Nothing was "
                            f"removed. Raise that first"
                        )
                    yield from mentions(value)
            except (UnicodeError, MemoryError, OverflowError) as error:
                raise StoreError(
                    f"could not read what {schema}.{table}.{attribute} refers to: "
                    f"{type(error).__name__}. Nothing was removed. Mend that value first"
                ) from None
        if self.backend == "postgresql":
            for schema, table in self.select(_REWRITTEN):
                raise StoreError(
                    f"{schema}.{table} was rewritten while rows were read (ALTER TABLE, TRUNCATE, "
                    f"VACUUM FULL), and may have seemed empty. Nothing was removed. Try again when "
                    f"that has ended"
                )

    def select(self, query: str, args: tuple[()] | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query, with `_AT_ONCE` of them in memory."""
        with self._cursor() as cursor:
            try:
                cursor.execute(query, args)
                while rows := cursor.fetchmany(_AT_ONCE):
                    yield from rows
            except GeneratorExit:
                raise
            except Exception as error:
                raise dj.connection.translate_query_error(error, query, self.adapter) from error

    def try_lock(self, deed: Literal["collect", "first write", "migrate"]) -> bool:
        """Try to lock out others on this server that do the same, until this connection ends."""
        [(got,)] = self.select(_LOCK[self.backend].format(deed))
        self._locks |= bool(got)
        return bool(got)

    def limit_lock_wait(self, seconds: int) -> None:
        """Limit how long queries wait for a lock, which may be the caller's own."""
        with self._raw.cursor() as cursor:
            cursor.execute(
                f"SET LOCAL lock_timeout = '{seconds}s'"
                if self.backend == "postgresql"
                else f"SET SESSION lock_wait_timeout = {seconds}"
            )

    def end(self) -> None:
        """End the transaction; keep the connection and the lock."""
        self._raw.rollback()

    def unlock(self) -> None:
        """Release the lock: a server may notice the end of a connection late."""
        if self._locks:
            with self._raw.cursor() as cursor:
                cursor.execute(_UNLOCK[self.backend])

    def _normalized(self, schema: str) -> str:
        return schema.lower() if self.caseless else schema

    def _all_columns(self) -> list[Any]:
        if self._column_rows is None:
            self._column_rows = list(self.select(_COLUMNS[self.backend]))
            # MariaDB leaves out tables that it cannot open in time, with a warning.
            warned = () if self.backend == "postgresql" else self.select("SHOW WARNINGS")
            if reasons := [str(reason) for _, _, reason in warned]:
                raise StoreError(
                    f"the server does not tell of all tables: {'; '.join(reasons):.500}. Nothing "
                    f"was removed. Mend that, or try again"
                )
        return self._column_rows

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        # The drivers' default cursors load the whole result.
        if self.backend == "postgresql":
            with self._raw.cursor(name="dj_npy") as cursor:
                cursor.itersize = _AT_ONCE
                yield cursor
        else:
            from pymysql.cursors import SSCursor

            with self._raw.cursor(SSCursor) as cursor:
                yield cursor


@contextmanager
def another_session(connection: Any) -> Iterator[Any]:
    """Open another connection to the same server, to leave the caller's alone."""
    own = copy.copy(connection)
    own.connect()
    try:
        yield own
    finally:
        own.close()


@contextmanager
def snapshot(connection: Any) -> Iterator[Snapshot]:
    """
    Open a snapshot of the database, on a connection of its own.

    The caller's transaction is neither touched nor seen.
    """
    with another_session(connection) as own:
        if own.adapter.backend == "postgresql":
            from psycopg2 import extras

            own._conn.autocommit = False
            own._conn.set_session(isolation_level="REPEATABLE READ", readonly=True)
            # Otherwise a JSON that Python cannot parse would raise between the rows.
            for register in (extras.register_default_json, extras.register_default_jsonb):
                register(own._conn, loads=str)
            statements = ["SET LOCAL row_security = off"]  # makes hidden rows an error
        else:
            statements = [
                # Independent of the server's defaults: all rows are returned, and ages are computed
                # in the time zone in which transactions are recorded.
                "SET sql_select_limit = 18446744073709551615, time_zone = 'SYSTEM'",
                "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                "START TRANSACTION WITH CONSISTENT SNAPSHOT",
            ]
        with own._conn.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        now = Snapshot(own)
        try:
            yield now
        finally:
            with suppress(Exception):  # otherwise the server may end the transaction later
                now.end()
                now.unlock()


def schema_name(given: Any) -> str | None:
    """Return the name of a schema, given it or its name; None for anything else."""
    if isinstance(given, str):
        return given
    is_table = isinstance(given, (type, dj.expression.QueryExpression))
    return None if is_table else getattr(given, "database", None)


def connection_of(given: Any) -> Any:
    """Return the connection of a schema or a table; for a name, ``dj.conn()``."""
    return dj.conn() if isinstance(given, str) else given.connection


def one_connection(schemas: Sequence[Any], function: str) -> tuple[list[str], Any]:
    """Return the names of schemas and their connection; raise if a function cannot take them."""
    for given in schemas:
        if schema_name(given) is None:
            right = ""
            if isinstance(given, list | tuple):
                right = f": use dj_npy.{function}(*schemas)"
            elif isinstance(given, dj.expression.QueryExpression | type):
                right = f": give the schema of the table, dj_npy.{function}(schema)"
            raise ArrayInvalidError(f"expected a schema or its name, not {kind_of(given)}{right}")
    if not schemas:
        raise ArrayInvalidError(f"{function} takes at least one schema: dj_npy.{function}(schema)")
    connection = connection_of(schemas[0])
    if any(connection_of(each) is not connection for each in schemas):
        raise ArrayInvalidError(f"{function} takes the schemas of one connection at a time")
    return [str(schema_name(each)) for each in schemas], connection
