"""Import a data package: declare its tables, and insert its rows and arrays."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import datajoint as dj

from dj_npy._array.ref import NpyRef
from dj_npy._concurrency.progress import Progress
from dj_npy._errors import ArrayInvalidError, StoreError
from dj_npy._moves.datapackage import Package, read_package
from dj_npy._moves.declaring import renamed
from dj_npy._moves.definitions import Definition
from dj_npy._moves.findings import Insertions
from dj_npy._moves.incoming import Incoming, Target, decoded
from dj_npy._moves.packagecheck import FoundArrays, check_rows, find_arrays, rows_of
from dj_npy._moves.place import Place
from dj_npy._moves.rowfiles import Cells, RowFile
from dj_npy._text import in_units, kind_of


@dataclass
class Imported(Insertions):
    """
    The result of `import_package`.

    ``str(imported)`` is text, ``imported.to_json()`` JSON.
    """

    folder: str
    """Where the package is."""
    arrays: int = 0
    """Number of arrays of the rows that were inserted."""
    nbytes: int = 0
    """Size of their files in bytes."""
    missing: int = 0
    """Number of arrays that were damaged when they were exported; they are NULL."""

    @property
    def ok(self) -> bool:
        """Whether the package has all arrays."""
        return not self.missing

    def to_json(self) -> str:
        """Return the whole report as JSON."""
        return json.dumps({"ok": self.ok, **vars(self)}, indent=2)

    def __str__(self) -> str:
        size = in_units(self.nbytes)
        lines = [f"{self.rows:,} rows and {self.arrays:,} arrays {self.inserted}: {size}"]
        lines += self.table_lines()
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
    report = Imported(place.name, dry_run=dry_run, left_out=list(package.left_out))
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
        total = (found.count, found.nbytes)
        bar = stack.enter_context(Progress("import", total if progress else None))

        def values_of(incoming: Incoming, row: Cells) -> dict[str, Any]:
            values = decoded(incoming.given, row, backend)
            for each in incoming.given.attributes:
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
                    report.arrays += 1
                    report.nbytes += array.nbytes
                    bar.add(array.nbytes)
            return values

        target.insert(report, values_of, arrays=True)
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
