"""Rows that come in as text: whether they fit what is there, and the tables that they go into."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, Self

import datajoint as dj
from datajoint.errors import DataJointError

from dj_npy._datajoint.catalog import another_session, snapshot
from dj_npy._datajoint.insertmany import insert
from dj_npy._errors import ArrayCorruptError, ArrayInvalidError, StoreError
from dj_npy._moves.declaring import Declarer, misfits, plain_table
from dj_npy._moves.definitions import Definition, Structure
from dj_npy._moves.findings import Insertions
from dj_npy._moves.present import PresentRows
from dj_npy._moves.rowfiles import Cells, length_of
from dj_npy._moves.selection import make_neutral
from dj_npy._moves.values import kind_of_type
from dj_npy._stores import open_store
from dj_npy._text import key_text, short_repr

_ROWS_AT_ONCE, _TEXT_AT_ONCE = 500, 512 << 10
"""
Rows, and characters of them, that one INSERT has: servers limit its size. One row may be longer.
"""
_SHOWN = 5
"""Reasons, or keys, that a refusal names."""


class Incoming(NamedTuple):
    """The rows of a table."""

    given: Definition
    """As the table was where they come from."""
    target: Definition
    """As it is to be here."""
    rows: Callable[[], Iterator[Cells]]
    """Returns them from the first on."""


class Target:
    """
    The tables that rows go into. Memory use does not grow with the number of rows.

    Parameters
    ----------
    connection : datajoint.Connection
        To their database.
    tables : sequence of Incoming
        Parents first.
    origin : str
        Where the rows come from, for a refusal.
    advice : str
        What to do if other tables or rows are there, for a refusal.
    native : bool
        Declare columns by the types of the database where it has them, as the rows come from one of
        its kind; otherwise by DataJoint's that hold the same.
    has_files : bool
        Whether rows have what refers to the files of other codecs.
    collations : mapping, optional
        For MySQL: how schemas that are not there are to compare texts, the first that the server
        knows. Default: as the server does.
    """

    def __init__(
        self,
        connection: Any,
        tables: Sequence[Incoming],
        origin: str,
        advice: str,
        *,
        native: bool = False,
        has_files: bool = False,
        collations: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._connection, self._tables = connection, tables
        self._origin, self._advice = origin, advice
        self._native, self._collations = native, collations or {}
        self._there: set[tuple[str, str]] = set()
        self._present = PresentRows(has_files)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: Any) -> None:
        self._present.__exit__(*raised)

    def check(self, described: Callable[[str], str | None]) -> None:
        """
        Raise unless the tables and rows that are there fit.

        `described` returns the JSON of an array, given what stands for it in a row.
        """
        declarer = self._declarer(self._connection)
        with snapshot(self._connection) as now:
            make_neutral(now)
            structure = Structure(now)
            names = {
                (each[0], each[1])
                for each in now.attributes({each.target.schema for each in self._tables})
            }
            for number, each in enumerate(self._tables):
                target, name = each.target, ".".join(each.target.name)
                if target.name not in names:
                    declarer.check(target)
                    self._check_stores(target)
                    continue
                self._there.add(target.name)
                existing = structure.with_parents([target.name])[-1]
                if wrong := list(misfits(target, existing)):
                    raise ArrayInvalidError(
                        f"{name} is there, and is another table than that of {self._origin}: "
                        f"{'; '.join(wrong)}. Nothing was changed. {self._advice}"
                    )
                self._check_stores(existing)
                self._present.add(number, each.given, existing, now)
                found = self._present.differing(number, each.given, each.rows(), described)
                if differing := list(islice(found, _SHOWN + 1)):
                    keys = ", ".join(map(key_text, differing[:_SHOWN]))
                    raise ArrayInvalidError(
                        f"{name} has rows that differ from those of {self._origin}: {keys}"
                        f"{' and more' if len(differing) > _SHOWN else ''}. Nothing was changed. "
                        f"{self._advice}, or delete them"
                    )

    def insert(
        self,
        report: Insertions,
        values_of: Callable[[Incoming, Cells], dict[str, Any]],
        advance: Callable[[int], object] = lambda _: None,
        *,
        arrays: bool,
    ) -> None:
        """
        Declare the tables that are not there, and insert the rows that are not.

        In a dry run, rows are only counted.

        Parameters
        ----------
        report : Insertions
            What is told of it.
        values_of : callable
            Returns the values of a row as the database takes them, given its table.
        advance : callable, optional
            Told the number of characters of rows that have been inserted.
        arrays : bool
            As for `plain_table`.
        """
        with another_session(self._connection) as own:
            if not report.dry_run:
                report.declared += self._declare()
                take_all_values(own)
            for number, each in enumerate(self._tables):
                name, table = ".".join(each.target.name), None
                if not report.dry_run:
                    table = plain_table(own, _as_there(own, each.target), arrays=arrays)
                report.tables[name] = 0
                for some in self._new_rows(number, report):
                    rows = [values_of(each, row) for row in some]
                    if table is not None:
                        known = table.heading.attributes
                        rows = [{n: v for n, v in row.items() if n in known} for row in rows]
                        insert(table, rows, allow_direct_insert=True)
                    report.tables[name] += len(some)
                    report.rows += len(some)
                    advance(sum(map(length_of, some)))

    def _declare(self) -> Iterator[str]:
        """Declare the tables that are not there; yield the name of each."""
        for schema in dict.fromkeys(each.target.schema for each in self._tables):
            self._create_collated(schema)
            dj.Schema(schema, connection=self._connection)
        with another_session(self._connection) as own:
            # PostgreSQL gets a table and its comments by several statements: all of them or none.
            is_postgresql = own.adapter.backend == "postgresql"
            declarer = self._declarer(own)
            for target in (each.target for each in self._tables):
                if target.name not in self._there:
                    if is_postgresql:
                        own._conn.autocommit = False
                    declarer.declare(target)
                    if is_postgresql:
                        own._conn.commit()
                        own._conn.autocommit = True
                    yield ".".join(target.name)

    def _create_collated(self, schema: str) -> None:
        """Create a schema that compares texts as it did: other keys may be equal otherwise."""
        adapter, query = self._connection.adapter, self._connection.query
        wanted = self._collations.get(schema, ())
        if adapter.backend != "mysql" or not wanted or schema in dj.list_schemas(self._connection):
            return
        known = {
            name for (name,) in query("SELECT collation_name FROM information_schema.collations")
        }
        for collation in wanted:
            if collation in known:
                name = adapter.quote_identifier(schema).replace("%", "%%")
                query(f"CREATE DATABASE {name} COLLATE {collation}")
                return

    def _new_rows(self, number: int, report: Insertions) -> Iterator[list[Cells]]:
        """Yield the rows of a table that are not there, as many as one INSERT has."""
        some: list[Cells] = []
        length = 0
        given = self._tables[number].given
        for row in self._tables[number].rows():
            if self._present.has(number, list(key_of(given, row).values())):
                report.already += 1
                continue
            added = length_of(row)
            if some and (len(some) >= _ROWS_AT_ONCE or length + added > _TEXT_AT_ONCE):
                yield some
                some, length = [], 0
            some.append(row)
            length += added
        if some:
            yield some

    def _declarer(self, connection: Any) -> Declarer:
        return Declarer(connection, native=self._native)

    def _check_stores(self, target: Definition) -> None:
        for each in target.attributes:
            if each.is_array:
                try:
                    open_store(self._connection._config, each.type.strip("<>").partition("@")[2])
                except DataJointError as error:
                    raise StoreError(
                        f"{each.type} of {'.'.join(target.name)}: {error}. Nothing was changed"
                    ) from None


def take_all_values(connection: Any) -> None:
    """Have a session take values as they were, whatever its defaults are: times, zeros, no date."""
    if connection.adapter.backend == "mysql":
        connection.query(
            "SET time_zone = '+00:00', "
            "sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO'"
        )


def _as_there(connection: Any, target: Definition) -> Definition:
    """Return a definition without those of DataJoint's own attributes that its table has not."""
    table = dj.FreeTable(connection, connection.adapter.make_full_table_name(*target.name))
    _ = table.heading.attributes
    names = table.heading._attributes
    kept = (each for each in target.attributes if each.name in names or each.name[0] != "_")
    return Definition(*target.name, tuple(kept))


def check_values(
    tables: Sequence[Incoming],
    backend: str,
    origin: str,
    check_arrays: Callable[[Definition, Cells], object] = lambda *_: None,
) -> None:
    """
    Raise unless a database of some kind can hold all values.

    `check_arrays` raises ValueError for a row whose arrays are not as they should be.
    """
    for each in tables:
        wrong: list[str] = []
        for row in each.rows():
            try:
                decoded(each.given, row, backend)
                check_arrays(each.given, row)
            except ValueError as error:
                wrong.append(str(error))
                if len(wrong) > _SHOWN:
                    break
        if wrong:
            more = " ..." if len(wrong) > _SHOWN else ""
            raise ArrayCorruptError(
                f"rows of {'.'.join(each.given.name)} in {origin} cannot be inserted here: "
                f"{'; '.join(wrong[:_SHOWN])}{more}. Nothing was changed"
            )


def key_of(definition: Definition, row: Cells) -> dict[str, str | None]:
    """Return the key of a row as text."""
    pairs = zip(definition.attributes, row, strict=True)
    return {each.name: cell for each, cell in pairs if each.in_key}


def decoded(definition: Definition, row: Cells, backend: str) -> dict[str, Any]:
    """Return the values of a row as a database takes them; what stands for an array as it is."""
    values: dict[str, Any] = {}
    for attribute, cell in zip(definition.attributes, row, strict=True):
        value: Any = cell
        try:
            if cell is None:
                if not attribute.nullable:
                    raise ValueError("it cannot be NULL")
            elif not attribute.is_array:
                storage = attribute.storage
                value = kind_of_type(storage).decode(cell, storage, backend)
        except ValueError as error:
            raise ValueError(
                f"{attribute.name} of {key_text(key_of(definition, row))} is {short_repr(cell)}: "
                f"{error}"
            ) from None
        values[attribute.name] = value
    return values
