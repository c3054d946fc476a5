"""Export rows and their arrays as a data package."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dj_npy._concurrency.pipeline import IN_FLIGHT, Pipeline
from dj_npy._concurrency.progress import Progress
from dj_npy._datajoint.catalog import snapshot
from dj_npy._errors import ArrayInvalidError, StoreError
from dj_npy._format.aliases import TEMPORARY_SUFFIX
from dj_npy._format.layout import TEMPORARY
from dj_npy._moves import parquet as _parquet
from dj_npy._moves.datapackage import (
    ARRAYS,
    FILE,
    UNFINISHED,
    Package,
    file_names,
    package_json,
)
from dj_npy._moves.definitions import Definition, Structure
from dj_npy._moves.findings import Findings, where_it_was
from dj_npy._moves.packedarrays import FOLDER, NAMES, ArrayList, Copier
from dj_npy._moves.place import Place
from dj_npy._moves.rowfiles import Cells, RowFile, write_rows
from dj_npy._moves.selection import Selection, connection_of_all, make_neutral, seeds
from dj_npy._settings import settings
from dj_npy._text import in_units
from dj_npy._upkeep.verify import Finding

_TABLES = "tables"


@dataclass
class Exported(Findings):
    """
    The result of `export`.

    ``str(exported)`` is text, ``exported.to_json()`` JSON.
    """

    folder: str
    """Where the package is."""
    tables: dict[str, int] = field(default_factory=dict)
    """Number of rows of each table, parents first."""
    rows: int = 0
    """Number of rows of all tables."""
    arrays: int = 0
    """Number of arrays in the package."""
    nbytes: int = 0
    """Size of their files in bytes."""
    left_out: list[str] = field(default_factory=list)
    """What of the tables is not in the package: files of other codecs, for one."""

    def __str__(self) -> str:
        size = in_units(self.nbytes)
        lines = [
            f"{self.rows:,} rows of {len(self.tables)} tables, {self.arrays:,} arrays, {size}:",
            f"{self.folder}",
        ]
        lines += [f"{rows:>10,} {table}" for table, rows in self.tables.items()]
        lines += [f"{count:>10,} arrays left out: {what}" for what, count in self.counts.items()]
        lines += [f"left out: {what}" for what in self.left_out]
        lines += self.finding_lines()
        return "\n".join(lines)


def export(
    what: Any,
    folder: Any,
    *,
    store: str | None = None,
    parquet: bool = False,
    progress: bool = False,
) -> Exported:
    """
    Export rows and their arrays as a data package that needs neither DataJoint nor a database.

    The package is a folder with ``datapackage.json`` (https://specs.frictionlessdata.io), a CSV
    file for each table, and ``.npy`` files; `import_package` makes tables of it again, also in
    another kind of database. All rows are of one snapshot. With them go the rows of other tables
    to which they refer, and the parts of their tables.

    ``datapackage.json`` is written last: if this is stopped or killed, call it again with the same
    folder, and arrays that are there are not copied again. A missing or damaged array is reported,
    and the rest goes on. Memory use does not grow with the number of rows or the size of arrays.

    Parameters
    ----------
    what : datajoint.Schema, str, datajoint.Table, datajoint.Diagram, or a list of these
        Schemas, their names, tables, restricted tables or diagrams.
    folder : str or os.PathLike
        A folder that is empty or not there; in `store`, if that is given.
    store : str, optional
        Name of a store in DataJoint's configuration.
    parquet : bool
        Write each table as a Parquet file, too. This needs pyarrow.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Exported
        ``exported.ok``, ``exported.tables``, ``exported.findings``, ``exported.left_out``,
        ``exported.to_json()``.

    Raises
    ------
    ArrayInvalidError
        For anything but schemas, tables and diagrams, and a folder with anything else in it.
    StoreError
        If the folder cannot be written, for want of space for one.
    datajoint.DataJointError
        If the database refuses a query.

    Examples
    --------
    >>> exported = dj_npy.export(Recording & "recording_id = 1", "paper")  # doctest: +SKIP
    >>> exported.ok, exported.arrays  # doctest: +SKIP
    (True, 1)
    """
    given = list(what) if isinstance(what, list | tuple) else [what]
    connection = connection_of_all(given, "export")
    if connection.in_transaction:
        raise StoreError(
            "within a transaction, its rows cannot be seen by another session: export before it, "
            "or after"
        )
    if parquet:
        _parquet.check_installed()
    place = Place(folder, store, connection._config)
    report = Exported(place.name)
    with ExitStack() as stack:
        arrays = stack.enter_context(ArrayList())
        with snapshot(connection) as now:
            make_neutral(now)
            structure = Structure(now)
            wanted = list(seeds(given, structure))
            definitions = structure.with_parents(seed.name for seed in wanted)
            taken_up = _begin(place)
            selection = Selection(definitions, wanted, now)
            tables = [
                (definition, _write_table(place, name, number, definition, selection, arrays))
                for number, (definition, name) in enumerate(
                    zip(definitions, file_names(definitions), strict=True)
                )
            ]
        total = (arrays.count, arrays.nbytes)
        bar = stack.enter_context(Progress("export", total if progress else None))
        _copy(arrays, Copier(connection._config, place, taken_up), definitions, report, bar.add)
        _end(place, tables, arrays, now.backend, parquet, report)
    return report


def _begin(place: Place) -> bool:
    """Prepare the folder; return whether an unfinished export is taken up."""
    place.make()
    if place.nbytes(FILE) is not None:
        raise ArrayInvalidError(
            f"{place.name} has a package already: choose another folder, or remove that one"
        )
    if place.nbytes(UNFINISHED) is not None:
        for path in list(place.files()):
            if path != UNFINISHED and _is_ours(path) and not path.startswith(f"{FOLDER}/"):
                place.remove(path)
        return True
    if not all(TEMPORARY.fullmatch(path) for path in place.files()):  # of one killed at once
        raise ArrayInvalidError(f"{place.name} is not empty: choose another folder, or a new one")
    begun = {"about": "dj_npy.export writes here; call it again if that was stopped"}
    place.write(UNFINISHED, json.dumps(begun).encode() + b"\n")
    return False


def _is_ours(path: str) -> bool:
    if path.startswith((f"{FOLDER}/", f"{_TABLES}/")) or path in (f"{ARRAYS}.csv", UNFINISHED):
        return True
    return TEMPORARY.fullmatch(path) is not None


def _write_table(
    place: Place,
    name: str,
    number: int,
    definition: Definition,
    selection: Selection,
    arrays: ArrayList,
) -> RowFile:
    names = [each.name for each in definition.attributes]
    key = {each: names.index(each) for each in definition.key}
    arrays.begin()

    def array(index: int, texts: list[Any]) -> str:
        values = {part: texts[at] for part, at in key.items()}
        return arrays.add(number, definition, names[index], values, texts[index])

    def rows() -> Iterator[Cells]:
        arrays.forget()
        return selection.cells(definition, array)

    file = write_rows(place, f"{_TABLES}/{name}.csv", names, rows)
    arrays.end()
    return file


def _copy(
    arrays: ArrayList,
    copier: Copier,
    definitions: Sequence[Definition],
    report: Exported,
    advance: Callable[[int], None],
) -> None:
    pipeline = Pipeline(copier.work_items(arrays), settings.max_workers, IN_FLIGHT, adapt=True)
    try:
        for item in pipeline:
            each, copied = item.item, item.tasks[0].result()
            if copied.failure is not None:
                raise StoreError(
                    f"{copied.failure}. {report.arrays:,} of {arrays.count:,} arrays were copied. "
                    f"Mend that, and call it again"
                ) from copied.failure
            arrays.note(each, copied)
            if copied.what:
                table, at = ".".join(definitions[each.table].name), where_it_was(each.row)
                wrong = copied.what, table, each.key, each.attribute, *at, copied.message
                report.note(Finding(*wrong))
            else:
                report.arrays += 1
                report.nbytes += copied.nbytes
            advance(each.file_nbytes)
    finally:
        pipeline.close()


def _end(
    place: Place,
    tables: Sequence[tuple[Definition, RowFile]],
    arrays: ArrayList,
    backend: str,
    parquet: bool,
    report: Exported,
) -> None:
    listed = None
    if any(each.is_array for definition, _ in tables for each in definition.attributes):
        listed = write_rows(place, f"{ARRAYS}.csv", NAMES, arrays.cells)
    for definition, file in tables:
        report.tables[".".join(definition.name)] = file.rows
        report.rows += file.rows
        report.left_out += definition.notes
        report.left_out += (
            f"the files of {'.'.join(definition.name)}.{each.name}, {each.type}"
            for each in definition.attributes
            if each.has_files
        )
    more = [_parquet.write(place, definition, file) for definition, file in tables if parquet]
    package = Package(tuple(tables), listed, backend, tuple(report.left_out))
    arrays.index_paths()
    for path in list(place.files()):
        is_stale = path.startswith(f"{FOLDER}/") and not arrays.has(path)
        if is_stale or (_is_ours(path) and path.endswith(TEMPORARY_SUFFIX)):
            place.remove(path)  # of an export that was stopped
    now = datetime.now(UTC).isoformat(timespec="seconds")
    place.write(FILE, package_json(package, {"created": now}, more))
    place.remove(UNFINISHED)
