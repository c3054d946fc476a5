"""Schemas, tables and rows, as the page shows them."""

import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import datajoint as dj
from datajoint.errors import DataJointError

from dj_npy._datajoint.catalog import class_name
from dj_npy._datajoint.codec import NpyCodec
from dj_npy._errors import NpyError
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._view.answers import Refused, finite, integer
from dj_npy._view.conditions import NUMBER, behind, equal, given_key, restricted
from dj_npy._view.database import Database, select

_MAX_ROWS = 1000
_MAX_TEXT, _MAX_JSON = 1000, 64 << 10
"""Most characters of a value, and of the JSON of an array."""
_COUNT_S = 2
"""Seconds that a table is counted for when it is opened."""
_KEPT_S = 30
"""Seconds for which a heading is believed."""
_MAX_HEADINGS = 200
_NAME = re.compile(r"""[^.`"'\\;%\x00-\x1f]+""")
"""DataJoint puts names into SQL as they are."""
_SYSTEM = {
    "postgresql": {"information_schema"},  # and those that begin with pg_, as no others can
    "mysql": {"information_schema", "mysql", "performance_schema", "sys"},
}
_UNOPENED = re.compile(r"[A-Z\s]")
"""In a name in PostgreSQL, this is beyond DataJoint, which asks for such a table without quotes."""
_FEW_ROWS, _BATCH = 10_000, 100
"""Up to how many rows tables are counted, and how many tables in one query."""
_COUNTING_S, _BATCH_S = 5, 1
"""Seconds for which all tables are counted, and those of one query."""
_EXACT = 1 << 53
"""Integers beyond this are no numbers in a browser."""

# Estimates, which no lock on a table delays: PostgreSQL's rows are -1 until it is analyzed.
_TABLES = {
    "postgresql": """
        SELECT n.nspname, c.relname,
               CASE WHEN c.reltuples < 0 THEN pg_stat_get_live_tuples(c.oid)
                    ELSE c.reltuples END::bigint,
               nullif(c.relpages, 0)::bigint * current_setting('block_size')::bigint
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
          AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
        ORDER BY n.nspname, c.relname""",
    "mysql": """
        SELECT table_schema, table_name, table_rows, data_length + index_length
        FROM information_schema.tables
        WHERE table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')
        ORDER BY table_schema, table_name""",
}
_ARRAYS = {
    "postgresql": """
        SELECT n.nspname, c.relname, a.attname, d.description
        FROM pg_catalog.pg_description d
        JOIN pg_catalog.pg_class c ON c.oid = d.objoid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.objsubid
        WHERE d.classoid = 'pg_catalog.pg_class'::regclass AND d.objsubid > 0
          AND d.description LIKE ':<npy%' AND NOT a.attisdropped
        ORDER BY c.oid, a.attnum""",
    "mysql": """
        SELECT table_schema, table_name, column_name, column_comment
        FROM information_schema.columns WHERE column_comment LIKE ':<npy%'
        ORDER BY table_schema, table_name, ordinal_position""",
}
_OURS = re.compile(r":<npy(@[^>]*)?>:")


class Catalog:
    """
    What a database has, as far as the account sees it.

    Parameters
    ----------
    database : Database
        Where it is.
    schemas : sequence of str
        The schemas to list; none are all.
    """

    def __init__(self, database: Database, schemas: Sequence[str] = ()) -> None:
        self._database, self._schemas = database, {*schemas}
        self._headings: dict[str, tuple[float, Any]] = {}

    def schemas(self) -> dict[str, Any]:
        """Return all schemas with their tables, by two queries, and the tables left out."""
        with self._database.session() as session:
            tables = self._tables(session)
            columns = select(session, _ARRAYS[self._database.backend])
        arrays: dict[tuple[str, str], list[str]] = {}
        for schema, table, attribute, comment in columns:
            if _OURS.match(comment):
                arrays.setdefault((schema, table), []).append(attribute)
        found: dict[str, list[dict[str, Any]]] = {}
        unlisted: list[str] = []
        for schema, table, rows, nbytes in tables:
            if self._is_beyond_datajoint(schema, table):
                unlisted.append(f"{schema}.{table}")
                continue
            found.setdefault(schema, []).append(
                {
                    "name": f"{schema}.{table}",
                    "class": class_name(table),
                    "tier": tier(table),
                    "arrays": arrays.get((schema, table), []),
                    "rows": rows,
                    "bytes": nbytes,
                    "estimated": True,
                }
            )
        schemas = [{"name": name, "tables": each} for name, each in found.items()]
        return {"schemas": schemas, "unlisted": unlisted}

    def counts(self) -> dict[str, Any]:
        """
        Return how many rows tables have, as far as they are counted within some seconds.

        Of a table with more than `most` rows, it is ``most + 1``. Estimates are 0 for tables that
        were filled a moment ago.
        """
        with self._database.session() as session:
            tables = [(f"{s}.{t}", s, t, rows) for s, t, rows, _ in self._tables(session)]
        few = [
            each
            for each in tables
            if (each[3] or 0) <= 10 * _FEW_ROWS
            and _NAME.fullmatch(each[1])
            and _NAME.fullmatch(each[2])
        ]
        few.sort(key=lambda each: each[3] or 0)  # first those of which nothing is known
        batches = [few[n : n + _BATCH] for n in range(0, len(few), _BATCH)][::-1]
        found: dict[str, int] = {}
        until = time.monotonic() + _COUNTING_S
        while batches and time.monotonic() < until:
            batch = batches.pop()
            try:
                counts = self._counted(batch)
            except Refused as refused:
                if refused.status == 502:
                    raise
                if len(batch) > 1:  # one of them is locked, or not to be read
                    half = len(batch) // 2
                    batches[:0] = [batch[half:], batch[:half]]
                continue
            found.update({batch[n][0]: count for n, count in counts})
        return {"rows": found, "most": _FEW_ROWS}

    def _counted(self, tables: Sequence[tuple[str, str, str, Any]]) -> list[tuple[int, int]]:
        full_name = self._database.adapter.make_full_table_name
        queries = [
            f"SELECT {n}, count(*) FROM "
            f"(SELECT 1 FROM {full_name(schema, table)} LIMIT {_FEW_ROWS + 1}) AS few"
            for n, (_, schema, table, _) in enumerate(tables)
        ]
        with self._database.session(_BATCH_S) as session:
            return select(session, " UNION ALL ".join(queries))

    def _tables(self, session: Any) -> list[tuple[str, str, int | None, int | None]]:
        """Return schema, name, estimated rows and bytes of all tables that may be listed."""
        system = _SYSTEM[self._database.backend]
        return [
            (
                schema,
                table,
                None if rows is None else int(rows),
                None if nbytes is None else int(nbytes),
            )
            for schema, table, rows, nbytes in select(session, _TABLES[self._database.backend])
            if (not self._schemas or schema in self._schemas)
            and schema not in system
            and not table.startswith("~")
        ]

    def _is_beyond_datajoint(self, *names: str) -> bool:
        in_postgresql = self._database.backend == "postgresql"
        return in_postgresql and any(map(_UNOPENED.search, names))

    def describe(self, name: str) -> dict[str, Any]:
        """Return the heading of a table, its parents and children, and how many rows it has."""
        with self._database.session() as session:
            self._headings.pop(name, None)
            table = self.table(session, name)
            attributes = table.heading.attributes.values()
            parents, children = _keys(session, table)
            found = {
                "name": name,
                "class": class_name(table.table_name),
                "comment": table.heading.table_status["comment"] or "",
                "attributes": [_attribute(each) for each in attributes],
                "parents": parents,
                "children": children,
                "definition": repr(table.heading),
            }
        try:
            found["rows"] = self._count(table.full_table_name, limit_s=_COUNT_S)
            found["estimated"] = False
        except Refused as refused:
            if refused.status != 413:
                raise
            with self._database.session() as session:
                estimates = {f"{s}.{t}": rows for s, t, rows, _ in self._tables(session)}
            found["rows"] = estimates.get(name)
            found["estimated"] = True
        return found

    def rows(self, params: Mapping[str, str]) -> dict[str, Any]:
        """
        Return some rows of a table.

        In the order of the key, a page begins behind the key of the last row, so that the millionth
        is as quick as the first; in any other order, after so many rows.
        """
        name = params.get("table", "")
        try:
            return self._rows(name, params)
        except Refused as refused:
            _, known = self._headings.get(name, (0.0, None))
            if refused.status != 400 or known is None or not params.get("restriction", "").strip():
                raise
            columns = ", ".join(known.attributes)
            raise Refused(400, f"{refused}. The attributes are {columns}") from None

    def _rows(self, name: str, params: Mapping[str, str]) -> dict[str, Any]:
        limit = min(integer(params, "limit", 100), _MAX_ROWS)
        restriction = params.get("restriction", "")
        with self._database.session(once=bool(restriction)) as session:
            table = self.table(session, name)
            attributes, key = table.heading.attributes, table.heading.primary_key
            where, values = restricted(table, restriction)
            counted = where, values
            ordered = params.get("order", "").removeprefix("-") or (key[0] if key else "")
            direction = "DESC" if params.get("order", "").startswith("-") else "ASC"
            if ordered and ordered not in attributes:
                raise Refused(400, f"{name} has no attribute {ordered!r} to order by")
            if ordered and (attributes[ordered].codec or _is_bytes(attributes[ordered])):
                raise Refused(400, f"rows cannot be ordered by {ordered}: it has no plain values")
            # MySQL orders an enum by number, and compares it as text.
            is_plain = not any(attributes[each].type.startswith("enum") for each in key)
            by_key = is_plain and key[:1] == [ordered]
            offset = 0
            if by_key and params.get("after"):
                last = given_key(table, params["after"], "after")
                condition, its_values = behind(table, last, direction)
                where = f"{where} AND {condition}" if where else f" WHERE {condition}"
                values = [*values, *its_values]
            else:
                offset = integer(params, "offset", 0)
            quote = self._database.adapter.quote_identifier
            order = [
                f"{quote(each)} {direction}" for each in dict.fromkeys([ordered, *key]) if each
            ]
            selected = [_selected(self._database, each) for each in attributes.values()]
            query = (
                f"SELECT {', '.join(selected)} FROM {table.full_table_name}{where}"
                f"{' ORDER BY ' + ', '.join(order) if order else ''} LIMIT {limit + 1}"
                f"{f' OFFSET {offset}' if offset else ''}"
            )
            found = select(session, query, values) if limit else []
        page = [
            [
                _value(attribute, value)
                for attribute, value in zip(attributes.values(), row, strict=True)
            ]
            for row in found[:limit]
        ]
        following: dict[str, str] | None = None
        if len(found) > limit:
            last = dict(zip(attributes, page[-1], strict=True))
            after = {"after": json.dumps({each: last[each] for each in key})}
            following = after if by_key else {"offset": str(offset + limit)}
        count = self._count(table.full_table_name, *counted) if params.get("count") == "1" else None
        return {"rows": page, "more": following is not None, "next": following, "count": count}

    def metadata(self, name: str, attribute: str, key: str) -> tuple[str, dict[str, Any], str, str]:
        """
        Return the JSON of an array in a row, as text, its key, its table's name and its comment.

        The values of the key are integers and text, as DataJoint takes them. The name is quoted.

        Raises
        ------
        Refused
            If there is no such array.
        """
        with self._database.session() as session:
            table = self.table(session, name)
            column = table.heading.attributes.get(attribute)
            if column is None or not _is_array(column):
                raise Refused(404, f"{name} has no attribute {attribute!r:.100} with arrays")
            given = given_key(table, key, "key")
            where, values = equal(table, given)
            query = (
                f"SELECT {_as_text(self._database, attribute)} FROM {table.full_table_name}"
                f" WHERE {where}"
            )
            found = select(session, query, values)
        if not found or found[0][0] is None:
            raise Refused(404, f"{name} has no array {attribute} in a row with {key:.300}")
        literals = {
            name: stored if isinstance(stored, int) else str(given[name])
            for name, stored in zip(given, values, strict=True)
        }
        return found[0][0], literals, table.full_table_name, column.comment or ""

    def table(self, session: Any, name: str) -> Any:
        """Return a table by its name in the database, ``schema.table``; its heading is known."""
        schema, dot, table = name.partition(".")
        is_name = dot and _NAME.fullmatch(schema) and _NAME.fullmatch(table)
        if not is_name or table.startswith("~") or self._is_system(session, schema):
            raise Refused(404, f"there is no table {name!r:.150}")
        if self._is_beyond_datajoint(schema, table):
            raise Refused(
                404,
                f"DataJoint opens no table in PostgreSQL with capitals or spaces: {name!r:.150}",
            )
        known_at, known = self._headings.get(name, (0.0, None))
        if len(self._headings) > _MAX_HEADINGS:
            self._headings.clear()
        found = dj.FreeTable(session, session.adapter.make_full_table_name(schema, table))
        if known is not None and time.monotonic() < known_at + _KEPT_S:
            found._heading = known
            return found
        try:
            found.heading.attributes  # noqa: B018 - reads it
        except DataJointError as error:
            raise Refused(
                404, f"there is no table {name!r}, or this account must not see it: {error}"
            ) from None
        if not all(map(_NAME.fullmatch, found.heading.attributes)):
            raise Refused(400, f"{name} has an attribute whose name DataJoint cannot put into SQL")
        self._headings[name] = time.monotonic(), found.heading
        return found

    def _is_system(self, session: Any, schema: str) -> bool:
        """Return whether a schema is the server's own, under any name that means it."""
        system, lower = _SYSTEM[self._database.backend], schema.lower()
        if self._database.backend == "postgresql":
            return schema in system or schema.startswith("pg_")
        if schema in system or lower == "information_schema":
            return True
        # On Windows and macOS, names that differ in case are the same.
        return lower in system and select(session, "SELECT @@lower_case_table_names") != [(0,)]

    def _count(
        self, table: str, where: str = "", values: Sequence[Any] = (), limit_s: float | None = None
    ) -> int:
        with self._database.session(limit_s, once=bool(where)) as session:
            [(count,)] = select(session, f"SELECT count(*) FROM {table}{where}", values)
            return int(count)


def tier(table: str) -> str:
    """Return the tier of a table by its name."""
    bare = table.lstrip("#_")
    if "__" in bare:
        return "part"
    prefix = table[: len(table) - len(bare)]
    return {"#": "lookup", "_": "imported", "__": "computed"}.get(prefix, "manual")


def _selected(database: Database, attribute: Any) -> str:
    """Return what is selected of an attribute: no large value is sent."""
    name: str = database.adapter.quote_identifier(attribute.name)
    if _is_array(attribute):
        return f"left({_as_text(database, attribute.name)}, {_MAX_JSON})"
    if attribute.codec is not None:
        return f"{name} IS NOT NULL"
    if attribute.uuid and database.backend == "mysql":
        return f"hex({name})"
    if _is_bytes(attribute):
        return f"octet_length({name})"
    if NUMBER.match(attribute.type):
        return name
    text = _as_text(database, attribute.name)
    return text if attribute.in_key else f"left({text}, {_MAX_TEXT + 1})"


def _as_text(database: Database, name: str) -> str:
    kind = "text" if database.backend == "postgresql" else "char"
    return f"CAST({database.adapter.quote_identifier(name)} AS {kind})"


def _value(attribute: Any, value: Any) -> Any:
    """Return a value for JSON, from what `_selected` selects."""
    if value is None or (attribute.codec is not None and not value):
        return None
    if _is_array(attribute):
        return described(ArrayMetadata.of(value))
    if attribute.codec is not None:
        return {"codec": attribute.type}
    if attribute.uuid:
        return str(uuid.UUID(value))
    if _is_bytes(attribute):
        return {"bytes": int(value)}
    if isinstance(value, float):
        return value if finite(value) is not None else str(value)
    if isinstance(value, int):
        return value if abs(value) <= _EXACT else str(value)
    text = str(value)
    return text if attribute.in_key or len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"


def described(metadata: ArrayMetadata) -> dict[str, Any]:
    """Return what the row of an array says of it."""
    try:
        return {
            "shape": [*metadata.shape],
            "dtype": metadata.dtype.str,
            "nbytes": metadata.nbytes,
            "path": metadata.path,
            "store": metadata.store,
        }
    except NpyError as error:
        return {"error": str(error)}


def _is_array(attribute: Any) -> bool:
    return attribute.codec is not None and attribute.codec.name == NpyCodec.name


def _is_bytes(attribute: Any) -> bool:
    if attribute.uuid:  # MySQL has it as binary(16)
        return False
    return attribute.is_blob or re.match("(?i)(var)?binary|bytea", attribute.type) is not None


def _attribute(attribute: Any) -> dict[str, Any]:
    return {
        "name": attribute.name,
        "type": attribute.original_type or attribute.type,
        "key": attribute.in_key,
        "array": _is_array(attribute),
        "nullable": attribute.nullable,
        "comment": attribute.comment or "",
        "default": None if attribute.default is None else str(attribute.default),
    }


def _keys(session: Any, table: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the foreign keys of a table, and those of others that refer to it."""
    adapter, name = session.adapter, table.full_table_name
    every = adapter.load_foreign_keys_sql(adapter.quote_string(table.database), "'~%%'")
    found = select(
        session,
        f"SELECT constraint_name, referencing_table, referenced_table, column_name, "
        f"referenced_column_name FROM ({every}) AS every_key "
        f"WHERE referencing_table = %s OR referenced_table = %s",
        [name, name],
    )
    parents: dict[Any, dict[str, Any]] = {}
    children: dict[Any, dict[str, Any]] = {}
    for constraint, child, parent, attribute, of_parent in found:
        keys, other = (parents, parent) if child == name else (children, child)
        schema, table_name = adapter.split_full_table_name(other)
        if not table_name.startswith("~"):
            key = keys.setdefault(
                (constraint, other),
                {
                    "table": f"{schema}.{table_name}",
                    "class": class_name(table_name),
                    "attributes": {},
                },
            )
            key["attributes"][attribute] = of_parent
    return [*parents.values()], [*children.values()]
