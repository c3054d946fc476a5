"""Which rows of which tables: those that are asked for, and the parents that these need."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import datajoint as dj

from dj_npy._datajoint.catalog import Snapshot, connection_of, schema_name
from dj_npy._errors import ArrayInvalidError
from dj_npy._moves.definitions import Definition, Structure
from dj_npy._moves.rowfiles import Cells
from dj_npy._moves.values import kind_of_type, order_sql, select_sql
from dj_npy._text import kind_of


class Seed(NamedTuple):
    """Rows of a table that were asked for."""

    name: tuple[str, str]
    """Schema and table."""
    sql: str | None
    """SQL of a query with their keys, with ``%`` doubled; None is all rows."""
    master: tuple[str, str] | None = None
    """Of a part: the master, if the query is of its rows."""


def connection_of_all(given: Sequence[Any], function: str) -> Any:
    """Return the connection of schemas, tables, queries and diagrams; raise for anything else."""
    if not given:
        raise ArrayInvalidError(f"{function} takes at least a schema, a table or a diagram")
    found = [_connection_of(each, function) for each in given]
    if any(each is not found[0] for each in found):
        raise ArrayInvalidError(f"{function} takes what is of one connection at a time")
    return found[0]


def _connection_of(given: Any, function: str) -> Any:
    if isinstance(given, dj.Diagram):
        return given._connection
    kind = given if isinstance(given, type) else type(given)
    if issubclass(kind, dj.Table) or schema_name(given) is not None:
        return connection_of(given)
    right = ""
    if isinstance(given, dj.expression.QueryExpression):
        right = " of several tables or with other attributes: give the tables, each restricted"
    raise ArrayInvalidError(
        f"{function} takes a schema, a table, a restricted table or a diagram, not "
        f"{kind_of(given)}{right}"
    )


def seeds(given: Iterable[Any], structure: Structure) -> Iterator[Seed]:
    """Yield what was asked for, table by table; of a master, its parts too."""
    for each in given:
        if isinstance(each, dj.Diagram):
            yield from (_seed(table) for table in each)
        elif (schema := schema_name(each)) is not None:
            yield from (Seed((schema, table), None) for table in structure.tables(schema))
        else:
            table = each() if isinstance(each, type) else each
            yield (seed := _seed(table))
            for name in structure.tables(table.database):
                if name.startswith(f"{table.table_name}__"):
                    yield Seed((table.database, name), seed.sql, seed.name)


def _seed(table: Any) -> Seed:
    name = table.database, table.table_name
    plain = dj.FreeTable(table.connection, table.full_table_name).heading.names
    if table.heading.new_attributes or table.heading.names != plain:
        raise ArrayInvalidError(
            f"{'.'.join(name)}: rows are exported with their own names: restrict a table, but do "
            f"not project it"
        )
    is_whole = not table.restriction and table._top is None
    return Seed(name, None if is_whole else table.make_sql())


def make_neutral(now: Snapshot) -> None:
    """Have the session print values in one way, whatever its server's or account's defaults are."""
    statements = (
        "SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'; SET LOCAL extra_float_digits = 1"
        if now.backend == "postgresql"
        else "SET time_zone = '+00:00', max_sort_length = 4096"
    )
    with now.connection._conn.cursor() as cursor:
        cursor.execute(statements)


class Selection:
    """
    The rows of some tables that were asked for, and all rows to which these refer.

    One query a table finds them, whichever ways lead to it, and does not grow with the rows.

    Parameters
    ----------
    definitions : sequence of Definition
        Tables with all their parents, parents first.
    seeds : iterable of Seed
        What was asked for.
    now : Snapshot
        Where the rows are read.
    """

    def __init__(
        self, definitions: Sequence[Definition], seeds: Iterable[Seed], now: Snapshot
    ) -> None:
        self._definitions, self._now = definitions, now
        self._adapter = now.adapter
        self._seeds: dict[tuple[str, str], list[Seed]] = {}
        for seed in seeds:
            self._seeds.setdefault(seed.name, []).append(seed)

    def rows(self, given: Definition) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a table as the driver returns them, in the order of their keys."""
        return self._now.select(self.sql(given), ())

    def cells(
        self, given: Definition, array: Callable[[int, list[Any]], Any] | None = None
    ) -> Iterator[Cells]:
        """
        Yield the rows of a table as text, in the order of their keys.

        `array`, if given, returns what stands for an array, whose position and row it is told;
        otherwise that is the JSON that the row has.
        """
        encode = [kind_of_type(each.storage).encode for each in given.attributes]
        arrays = [n for n, each in enumerate(given.attributes) if each.is_array]
        for row in self.rows(given):
            texts = [
                None if value is None else to_text(value)
                for to_text, value in zip(encode, row, strict=True)
            ]
            if array is not None:
                for index in arrays:
                    if texts[index] is not None:
                        texts[index] = array(index, texts)
            yield texts

    def sql(self, given: Definition) -> str:
        """Return the query for the rows of a table."""
        backend = self._adapter.backend
        described: list[str] = []
        self._describe(given, described, set())
        where = self._where(given)
        names = [
            f"{select_sql(self._quoted(each.name), each.storage, backend)}"
            for each in given.attributes
        ]
        order = [
            order_sql(self._quoted(each.name), each.storage, backend)
            for each in given.attributes
            if each.in_key
        ]
        before = f"WITH {', '.join(described)} " if described else ""
        behind = f" ORDER BY {', '.join(order)}" if order else ""
        return f"{before}SELECT {', '.join(names)} FROM {self._table(given)}{where}{behind}"

    def _describe(self, given: Definition, found: list[str], done: set[Any]) -> None:
        """Add the queries by which the condition on a table is told, in an order that works."""
        if self._is_whole(given):
            return
        number = self._definitions.index(given)
        for index, seed in enumerate(self._seeds.get(given.name, [])):
            pairs = self._key_of(given, seed)
            keys = ", ".join(f"q.{self._quoted(name)}" for name in pairs.values()) or "1"
            found.append(f"s{number}_{index} AS (SELECT {keys} FROM ({seed.sql}) AS q)")
        for child in self._children(given):
            if child.name in done:
                continue
            done.add(child.name)
            self._describe(child, found, done)
            used = dict.fromkeys(
                name
                for name in (*child.key, *(n for key in child.foreign_keys for n in key.attributes))
            )
            found.append(
                f"n{self._definitions.index(child)} AS (SELECT "
                f"{', '.join(map(self._quoted, used)) or '1'} FROM {self._table(child)}"
                f"{self._where(child)})"
            )

    def _where(self, given: Definition) -> str:
        if self._is_whole(given):
            return ""
        number = self._definitions.index(given)
        conditions = []
        for index, seed in enumerate(self._seeds.get(given.name, [])):
            key = ", ".join(map(self._quoted, self._key_of(given, seed)))
            rows = f"(SELECT * FROM s{number}_{index})"
            conditions.append(f"({key}) IN {rows}" if key else f"EXISTS {rows}")
        for child in self._children(given):
            for each in child.foreign_keys:
                if (each.schema, each.table) != given.name:
                    continue
                ours = ", ".join(map(self._quoted, each.attributes.values()))
                theirs = ", ".join(map(self._quoted, each.attributes))
                some = " AND ".join(f"{self._quoted(n)} IS NOT NULL" for n in each.attributes)
                conditions.append(
                    f"({ours}) IN (SELECT {theirs} FROM n{self._definitions.index(child)} "
                    f"WHERE {some})"
                )
        return f" WHERE {' OR '.join(conditions)}"

    def _key_of(self, given: Definition, seed: Seed) -> dict[str, str]:
        """Return attributes of a table by which a seed tells its rows, and theirs in the seed."""
        for key in given.foreign_keys:
            if (key.schema, key.table) == seed.master:
                return key.attributes
        return {name: name for name in given.key}

    def _children(self, given: Definition) -> list[Definition]:
        return [
            each
            for each in self._definitions
            if any((key.schema, key.table) == given.name for key in each.foreign_keys)
        ]

    def _is_whole(self, given: Definition) -> bool:
        return any(seed.sql is None for seed in self._seeds.get(given.name, []))

    def _table(self, given: Definition) -> str:
        name: str = self._adapter.make_full_table_name(*given.name)
        return name.replace("%", "%%")

    def _quoted(self, name: str) -> str:
        quoted: str = self._adapter.quote_identifier(name)
        return quoted.replace("%", "%%")
