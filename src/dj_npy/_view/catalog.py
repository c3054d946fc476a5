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
from dj_npy._view.listing import NAME, SYSTEM, Listing

_MAX_ROWS = 1000
_MAX_TEXT, _MAX_JSON = 1000, 64 << 10
"""Most characters of a value, and of the JSON of an array."""
_COUNT_S = 2
"""Seconds that a table is counted for when it is opened."""
_KEPT_S = 30
"""Seconds for which a heading is believed."""
_MAX_HEADINGS = 200
_EXACT = 1 << 53
"""Integers beyond this are no numbers in a browser."""


class Catalog:
    """
    Tables and rows of a database, as far as the account sees it.

    Parameters
    ----------
    database : Database
        Where it is.
    schemas : sequence of str
        The schemas to list; none are all.
    """

    def __init__(self, database: Database, schemas: Sequence[str] = ()) -> None:
        self._database = database
        self.listing = Listing(database, schemas)
        """Which tables there are."""
        self._headings: dict[str, tuple[float, Any]] = {}

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
            found["rows"] = self.listing.estimate(name)
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
        is_name = dot and NAME.fullmatch(schema) and NAME.fullmatch(table)
        if not is_name or table.startswith("~") or self._is_system(session, schema):
            raise Refused(404, f"there is no table {name!r:.150}")
        if self.listing.is_beyond_datajoint(schema, table):
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
        if not all(map(NAME.fullmatch, found.heading.attributes)):
            raise Refused(400, f"{name} has an attribute whose name DataJoint cannot put into SQL")
        self._headings[name] = time.monotonic(), found.heading
        return found

    def _is_system(self, session: Any, schema: str) -> bool:
        """Return whether a schema is the server's own, under any name that means it."""
        system, lower = SYSTEM[self._database.backend], schema.lower()
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
