"""Import a data package: declare its tables, and insert its rows and arrays."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import datajoint as dj

from dj_npy._array.ref import NpyRef
from dj_npy._concurrency.progress import Progress
from dj_npy._datajoint.catalog import another_session
from dj_npy._datajoint.insertmany import insert
from dj_npy._errors import ArrayInvalidError, StoreError
from dj_npy._moves.datapackage import Package, read_package
from dj_npy._moves.declaring import plain_table, renamed
from dj_npy._moves.definitions import Definition
from dj_npy._moves.incoming import Incoming, Target, as_there, decoded, take_all_values
from dj_npy._moves.packagecheck import FoundArrays, check_rows, find_arrays, rows_of
from dj_npy._moves.place import Place
from dj_npy._moves.rowfiles import Cells, RowFile
from dj_npy._text import in_units, kind_of


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
    tables = [
        Incoming(definition, target, partial(rows_of, place, definition, file))
        for (definition, file), target in zip(package.tables, targets, strict=True)
    ]
    with ExitStack() as stack:
        found = stack.enter_context(FoundArrays())
        with Progress("check", (0, 0) if progress else None) as bar:
            find_arrays(place, package, found, bar.add)
        check_rows(place, tables, found, backend)
        for definition, file in package.tables:
            _check_files(definition, place, file)
        advice = "Import into another schema"
        target = stack.enter_context(Target(connection, tables, "the package", advice))
        target.check(found.description)
        own = stack.enter_context(another_session(connection))
        if not dry_run:
            report.declared += target.declare()
            take_all_values(own)
        total = (found.count, found.nbytes)
        bar = stack.enter_context(Progress("import", total if progress else None))
        for number, each in enumerate(tables):
            rows = target.new_rows(number)
            into = None if dry_run else plain_table(own, as_there(own, each.target), arrays=True)
            _insert(place, each, rows, found, into, backend, report, bar.add)
        report.already = target.already
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


def _insert(
    place: Place,
    incoming: Incoming,
    rows: Iterator[list[Cells]],
    found: FoundArrays,
    table: Any,
    backend: str,
    report: Imported,
    advance: Callable[[int], None],
) -> None:
    """Insert rows, a few hundred by each statement; without a table, only count them."""
    definition, name = incoming.given, ".".join(incoming.target.name)
    report.tables[name] = 0
    for some in rows:
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
