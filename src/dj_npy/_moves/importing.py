"""Import a data package: declare its tables, and insert its rows and arrays."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import datajoint as dj
from datajoint.errors import DataJointError

from dj_npy._array.ref import NpyRef
from dj_npy._concurrency.progress import Progress
from dj_npy._datajoint.catalog import another_session, snapshot
from dj_npy._datajoint.insertmany import insert
from dj_npy._errors import ArrayInvalidError, StoreError
from dj_npy._moves.datapackage import Package, read_package
from dj_npy._moves.declaring import Declarer, misfits, plain_table, renamed
from dj_npy._moves.definitions import Definition, Structure
from dj_npy._moves.export import make_neutral
from dj_npy._moves.packagecheck import (
    FoundArrays,
    check_rows,
    decoded,
    find_arrays,
    key_of,
    rows_of,
)
from dj_npy._moves.place import Place
from dj_npy._moves.present import PresentRows
from dj_npy._moves.rowfiles import Cells, RowFile
from dj_npy._stores import open_store
from dj_npy._text import in_units, key_text, kind_of

_ROWS_AT_ONCE, _TEXT_AT_ONCE = 500, 4 << 20
"""Rows, and characters of them, that one INSERT has."""


@dataclass
class Imported:
    """
    The result of `import_package`.

    ``str(imported)`` is text, ``imported.to_json()`` JSON.
    """

    folder: str
    """Where the package is."""
    dry_run: bool
    """Whether it was only checked."""
    tables: dict[str, int] = field(default_factory=dict)
    """Number of rows that were inserted into each table, parents first."""
    declared: list[str] = field(default_factory=list)
    """Tables that were not there before."""
    rows: int = 0
    """Number of rows that were inserted."""
    already: int = 0
    """Number of rows that were there before, and are equal."""
    arrays: int = 0
    """Number of arrays of the rows that were inserted."""
    nbytes: int = 0
    """Size of their files in bytes."""
    missing: int = 0
    """Number of arrays that were damaged when they were exported; they are NULL."""
    left_out: list[str] = field(default_factory=list)
    """What of the tables the package has not."""

    @property
    def ok(self) -> bool:
        """Whether the package has all arrays."""
        return not self.missing

    def to_json(self) -> str:
        """Return the whole report as JSON."""
        return json.dumps({"ok": self.ok, **vars(self)}, indent=2)

    def __str__(self) -> str:
        would, size = "would be" if self.dry_run else "were", in_units(self.nbytes)
        lines = [f"{self.rows:,} rows and {self.arrays:,} arrays {would} inserted: {size}"]
        lines += [f"{rows:>10,} {table}" for table, rows in self.tables.items()]
        if self.already:
            lines.append(f"{self.already:>10,} rows were there before, and are equal")
        if self.missing:
            lines.append(f"{self.missing:>10,} arrays were damaged when exported, and are NULL")
        return "\n".join([*lines, *(f"left out: {what}" for what in self.left_out)])


def import_package(
    folder: Any,
    *,
    store: str | None = None,
    schemas: str | Mapping[str, str] | None = None,
    stores: str | Mapping[str, str] | None = None,
    connection: Any = None,
    dry_run: bool = False,
    progress: bool = False,
) -> Imported:
    """
    Make tables and rows of a package that `export` has written, with their arrays.

    First all of the package is checked: that each file is within it and has its hash, that each
    value is one that this database can hold, that tables and rows which are there already fit. If
    anything is wrong, nothing is changed. Rows that are there and equal are skipped: if this is
    stopped or killed, call it again.

    Parameters
    ----------
    folder : str or os.PathLike
        The package; in `store`, if that is given.
    store : str, optional
        Name of a store in DataJoint's configuration.
    schemas : str or dict, optional
        Name of the schema to import into; with several of them, a dict from old names to new ones.
        Default: the names in the package.
    stores : str or dict, optional
        Name of the store of all arrays; or a dict from the names in the definitions to others,
        where ``""`` is the default store. Default: the names in the definitions.
    connection : datajoint.Connection, optional
        Default: ``dj.conn()``.
    dry_run : bool
        Only check.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Imported
        ``imported.tables``, ``imported.already``, ``imported.declared``, ``imported.to_json()``.

    Raises
    ------
    ArrayInvalidError
        If it is no package, or does not fit what is there.
    ArrayCorruptError
        If a file of the package was changed, or a value cannot be stored.
    StoreError
        If a store cannot be used. What was inserted until then stays so.
    datajoint.DataJointError
        If the database refuses a statement. What was inserted until then stays so.

    Examples
    --------
    >>> imported = dj_npy.import_package("paper", schemas="paper_ephys")  # doctest: +SKIP
    >>> imported.ok, imported.rows  # doctest: +SKIP
    (True, 1)
    """
    connection = dj.conn() if connection is None else connection
    if connection.in_transaction:
        raise StoreError(
            "tables cannot be declared within a transaction: import before it, or after"
        )
    place = Place(folder, store, connection._config)
    package = read_package(place)
    report = Imported(place.name, dry_run, left_out=list(package.left_out))
    targets = _targets(package, schemas, stores)
    backend = connection.adapter.backend
    with ExitStack() as stack:
        found = stack.enter_context(FoundArrays())
        with Progress("check", (0, 0) if progress else None) as bar:
            find_arrays(place, package, found, bar.add)
        check_rows(place, package, found, backend)
        tables = [
            (definition, target, file)
            for (definition, file), target in zip(package.tables, targets, strict=True)
        ]
        present = stack.enter_context(PresentRows())
        there = _check_target(connection, place, tables, found, present)
        own = stack.enter_context(another_session(connection))
        if not dry_run:
            _declare(connection, targets, there, report)
            if backend == "mysql":
                own.query("SET time_zone = '+00:00'")
        total = (found.count, found.nbytes)
        bar = stack.enter_context(Progress("import", total if progress else None))
        for number, (definition, target, file) in enumerate(tables):
            rows = _new_rows(place, number, definition, file, present, report)
            into = None if dry_run else plain_table(own, _as_there(own, target))
            _insert(place, definition, target, rows, found, into, backend, report, bar.add)
    return report


def _targets(
    package: Package,
    schemas: str | Mapping[str, str] | None,
    stores: str | Mapping[str, str] | None,
) -> list[Definition]:
    """Return the definitions with the names of schemas and stores to import into."""
    names = list(dict.fromkeys(definition.schema for definition, _ in package.tables))
    if isinstance(schemas, str):
        if len(names) != 1:
            raise ArrayInvalidError(
                f"the package has the schemas {', '.join(names)}: give a new name for each, "
                f"schemas={{{names[0]!r}: {schemas!r}, ...}}"
            )
        schemas = {names[0]: schemas}
    schemas = schemas or {}
    if not isinstance(schemas, Mapping) or not all(isinstance(v, str) for v in schemas.values()):
        raise ArrayInvalidError(f"schemas is a name or a dict of names, not {kind_of(schemas)}")
    if unknown := schemas.keys() - names:
        raise ArrayInvalidError(
            f"the package has no schema {', '.join(sorted(unknown))}; it has {', '.join(names)}"
        )
    used = {
        each.type.strip("<>").partition("@")[2]
        for definition, _ in package.tables
        for each in definition.attributes
        if each.type.startswith("<") and "@" in each.type
    }
    if isinstance(stores, str):
        stores = dict.fromkeys(used, stores)
    targets = [renamed(definition, schemas, stores or {}) for definition, _ in package.tables]
    if len({each.name for each in targets}) < len(targets):
        raise ArrayInvalidError("two tables of the package would get the same name")
    return targets


def _check_target(
    connection: Any,
    place: Place,
    tables: Sequence[tuple[Definition, Definition, RowFile]],
    found: FoundArrays,
    present: PresentRows,
) -> set[tuple[str, str]]:
    """Raise unless the tables and rows that are there fit; return the tables."""
    there: set[tuple[str, str]] = set()
    declarer = Declarer(connection)
    with snapshot(connection) as now:
        make_neutral(now)
        structure = Structure(now)
        names = {(each[0], each[1]) for each in now.attributes({t.schema for _, t, _ in tables})}
        for number, (definition, target, file) in enumerate(tables):
            _check_files(definition, place, file)
            if target.name not in names:
                declarer.check(target)
                _check_stores(connection, target)
                continue
            there.add(target.name)
            existing = structure.with_parents([target.name])[-1]
            if wrong := list(misfits(target, existing)):
                raise ArrayInvalidError(
                    f"{'.'.join(target.name)} is there and is another table than the package's: "
                    f"{'; '.join(wrong)}. Nothing was changed. Import into another schema"
                )
            _check_stores(connection, existing)
            present.add(number, definition, existing, now)
            if differing := list(
                present.differing(number, definition, rows_of(place, definition, file), found)
            ):
                keys = ", ".join(map(key_text, differing[:5]))
                raise ArrayInvalidError(
                    f"{'.'.join(target.name)} has rows that differ from the package's: {keys}"
                    f"{' and more' if len(differing) > 5 else ''}. Nothing was changed. Import "
                    f"into another schema, or delete them"
                )
    return there


def _check_files(definition: Definition, place: Place, file: RowFile) -> None:
    """Raise if a row wants a file of another codec, which the package has not."""
    wants = [
        n for n, each in enumerate(definition.attributes) if each.has_files and not each.nullable
    ]
    if wants and file.rows:
        names = ", ".join(definition.attributes[n].type for n in wants)
        raise ArrayInvalidError(
            f"{'.'.join(definition.name)} has files of {names}, which the package {place.name} has "
            f"not, and which cannot be NULL. Nothing was changed"
        )


def _check_stores(connection: Any, target: Definition) -> None:
    for each in target.attributes:
        if each.is_array:
            try:
                open_store(connection._config, each.type.strip("<>").partition("@")[2])
            except DataJointError as error:
                raise StoreError(
                    f"{each.type} of {'.'.join(target.name)}: {error}. Or give another store, "
                    f"stores='main'. Nothing was changed"
                ) from None


def _declare(
    connection: Any,
    targets: Sequence[Definition],
    there: set[tuple[str, str]],
    report: Imported,
) -> None:
    for schema in dict.fromkeys(each.schema for each in targets):
        dj.Schema(schema, connection=connection)
    with another_session(connection) as own:
        # PostgreSQL gets a table and its comments by several statements: all of them or none.
        is_postgresql = own.adapter.backend == "postgresql"
        declarer = Declarer(own)
        for target in targets:
            if target.name not in there:
                if is_postgresql:
                    own._conn.autocommit = False
                declarer.declare(target, targets)
                if is_postgresql:
                    own._conn.commit()
                    own._conn.autocommit = True
                report.declared.append(".".join(target.name))


def _as_there(connection: Any, target: Definition) -> Definition:
    """Return a definition without those of DataJoint's own attributes that its table has not."""
    table = dj.FreeTable(connection, connection.adapter.make_full_table_name(*target.name))
    _ = table.heading.attributes
    names = table.heading._attributes
    return Definition(*target.name, tuple(each for each in target.attributes if each.name in names))


def _new_rows(
    place: Place,
    number: int,
    definition: Definition,
    file: RowFile,
    present: PresentRows,
    report: Imported,
) -> Iterator[Cells]:
    for row in rows_of(place, definition, file):
        if present.has(number, list(key_of(definition, row).values())):
            report.already += 1
        else:
            yield row


def _insert(
    place: Place,
    definition: Definition,
    target: Definition,
    rows: Iterator[Cells],
    found: FoundArrays,
    table: Any,
    backend: str,
    report: Imported,
    advance: Callable[[int], None],
) -> None:
    """Insert rows, a few hundred by each statement; without a table, only count them."""
    name = ".".join(target.name)
    report.tables[name] = 0
    for some in _batches(rows):
        given, nbytes, arrays = [], 0, 0
        for row in some:
            values = decoded(definition, row, backend)
            for each in definition.attributes:
                if each.has_files:
                    values[each.name] = None
                elif each.is_array and values[each.name] is not None:
                    array = found.get(values[each.name])
                    assert array is not None
                    values[each.name] = None
                    if array.problem:
                        report.missing += 1
                        continue
                    values[each.name] = NpyRef(json.loads(array.description), place.config)
                    nbytes += array.nbytes
                    arrays += 1
            given.append(values)
        if table is not None:
            known = table.heading.attributes
            given = [{n: v for n, v in each.items() if n in known} for each in given]
            insert(table, given, allow_direct_insert=True)
        report.tables[name] += len(given)
        report.rows += len(given)
        report.arrays += arrays
        report.nbytes += nbytes
        advance(nbytes)


def _batches(rows: Iterator[Cells]) -> Iterator[list[Cells]]:
    some: list[Cells] = []
    length = 0
    for row in rows:
        some.append(row)
        length += sum(len(cell) for cell in row if cell)
        if len(some) >= _ROWS_AT_ONCE or length >= _TEXT_AT_ONCE:
            yield some
            some, length = [], 0
    if some:
        yield some
