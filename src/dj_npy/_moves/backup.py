"""Write definitions and rows into a store, so that the store alone can bring them back."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import datajoint as dj

from dj_npy._concurrency.pipeline import Pipeline, Task, WorkItem
from dj_npy._concurrency.progress import Progress
from dj_npy._datajoint.catalog import Snapshot, one_connection, snapshot
from dj_npy._datajoint.storerows import TableWitness
from dj_npy._errors import ArrayInvalidError, NpyError, StoreError
from dj_npy._moves.backups import Backup, Backups, chunks_of
from dj_npy._moves.datapackage import file_names
from dj_npy._moves.declaring import undeclarable
from dj_npy._moves.definitions import Definition, Structure
from dj_npy._moves.rowfiles import RowFile, length_of
from dj_npy._moves.selection import Selection, make_neutral, seeds
from dj_npy._settings import settings
from dj_npy._stores import identity
from dj_npy._text import in_units, kind_of

_IN_FLIGHT = 64 << 20
"""Characters of chunks that are written at a time."""
_VISIBLE = "SELECT nspname FROM pg_catalog.pg_namespace WHERE has_schema_privilege(oid, 'USAGE')"
_COLLATIONS = "SELECT schema_name, default_collation_name FROM information_schema.schemata"


@dataclass
class BackedUp:
    """
    The result of `backup`.

    ``str(backed_up)`` is text, ``backed_up.to_json()`` JSON.
    """

    store: str
    """Name of the store that the backup is in."""
    name: str = ""
    """Its name, which is the time of its end in UTC: ``2026-11-28T093000.000000Z``."""
    schemas: list[str] = field(default_factory=list)
    """What is in it as a whole."""
    tables: dict[str, int] = field(default_factory=dict)
    """Number of rows of each table, parents first."""
    rows: int = 0
    """Number of rows of all tables."""
    nbytes: int = 0
    """Size of the rows as text in bytes."""
    written: int = 0
    """Bytes that were written: earlier backups had the rest."""
    removed: int = 0
    """Number of earlier backups that were removed."""
    array_stores: list[str] = field(default_factory=list)
    """Names of the stores that have the arrays, which are not in the backup."""
    left_out: list[str] = field(default_factory=list)
    """What of the tables is not in it."""

    @property
    def ok(self) -> bool:
        """True: what goes wrong is raised."""
        return True

    def to_json(self) -> str:
        """Return the whole report as JSON."""
        return json.dumps({"ok": self.ok, **vars(self)}, indent=2)

    def __str__(self) -> str:
        tables = f"{len(self.tables)} table{'' if len(self.tables) == 1 else 's'}"
        what = f"{self.rows:,} rows of {tables}, {in_units(self.nbytes)}"
        lines = [
            f"backup {self.name} in store {self.store!r}: {what}",
            f"{in_units(self.written)} written, the rest was there",
            f"schemas: {', '.join(self.schemas)}",
        ]
        if self.array_stores:
            lines.append(f"their arrays are in {', '.join(map(repr, self.array_stores))}")
        if self.removed:
            lines.append(f"{self.removed:,} earlier backups removed")
        return "\n".join([*lines, *(f"left out: {what}" for what in self.left_out)])


def backup(
    *schemas: Any, store: str | None = None, keep: int | None = None, progress: bool = False
) -> BackedUp:
    """
    Write the definitions and rows of schemas into a store, from which `restore` brings them back.

    What is written is all that the database holds of them, blobs included, in one snapshot; and the
    rows of other schemas to which they refer. Not the arrays, which are in their stores. Only rows
    that no earlier backup has are written. A backup is there as a whole, or not at all: if this is
    stopped or killed, call it again. Memory use does not grow with the number of rows.

    The rows are not encrypted. Whoever may read the store can read them.

    Parameters
    ----------
    *schemas : datajoint.Schema or str
        Schemas or their names. Default: all schemas of DataJoint's that the account can see.
    store : str, optional
        Name of a store in DataJoint's configuration. Default: the default one.
    keep : int, optional
        Remove all earlier backups but so many, together with this one. Those of the last day, and
        the newest before, stay in any case. Default: remove none.
    progress : bool
        Show a progress bar.

    Returns
    -------
    BackedUp
        ``backed_up.name``, ``backed_up.tables``, ``backed_up.written``, ``backed_up.to_json()``.

    Raises
    ------
    ArrayInvalidError
        For an argument of another type, or a schema that does not exist.
    StoreError
        If the store cannot be written, for want of space for one, or is not the one that rows of
        these schemas mean, such as an empty mount point. Or if earlier backups cannot be removed;
        this one is there then, and the message has its name.
    ArrayCorruptError
        The same, if the list of an earlier one is damaged.
    datajoint.DataJointError
        If the database refuses a query.

    Examples
    --------
    >>> backed_up = dj_npy.backup(schema)
    >>> backed_up.rows
    1
    """
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
        raise ArrayInvalidError(f"keep is a number of backups, 1 or more, not {kind_of(keep)}")
    names, connection = one_connection(schemas, "backup") if schemas else (None, dj.conn())
    if connection.in_transaction:
        raise StoreError(
            "within a transaction, its rows cannot be seen by another session: back up before it, "
            "or after"
        )
    backups = Backups(connection._config, store)
    report = BackedUp(backups.store_name)
    with snapshot(connection) as now, Progress("backup", (0, 0) if progress else None) as bar:
        report.schemas = names or _schemas_of_datajoint(now)
        for column in {each.schema: each for each in now.columns(report.schemas)}.values():
            table = dj.FreeTable(connection, now.adapter.make_full_table_name(*column[:2]))
            identity.id_for_write(backups.place.store, TableWitness(table))
        backups.begin()
        make_neutral(now)
        structure = Structure(now)
        wanted = list(seeds(report.schemas, structure))
        definitions = structure.with_parents(seed.name for seed in wanted)
        for each in [each for each in definitions if not each.key]:
            report.left_out.append(f"{'.'.join(each.name)}, as it has no primary key")
            definitions.remove(each)
        selection = Selection(definitions, wanted, now)
        tables: list[list[RowFile]] = [[] for _ in definitions]
        work_items = _work_items(definitions, selection, backups)
        workers = settings.max_workers
        with closing(Pipeline(work_items, workers, _IN_FLIGHT, adapt=True)) as pipeline:
            for item in pipeline:
                chunk, written = item.tasks[0].result()
                tables[item.item].append(chunk)
                report.written += written
                bar.add(chunk.nbytes)
        report.array_stores = _array_stores(now, definitions)
        collations = {} if now.backend == "postgresql" else dict(now.select(_COLLATIONS))
    for definition, chunks in zip(definitions, tables, strict=True):
        report.tables[".".join(definition.name)] = sum(chunk.rows for chunk in chunks)
        report.nbytes += sum(chunk.nbytes for chunk in chunks)
        report.left_out += definition.notes
        report.left_out += (
            f"how {'.'.join(definition.name)} is declared, so that restore wants it to be there: "
            f"{what}"
            for what in undeclarable(definition)
        )
    report.rows = sum(report.tables.values())
    report.name = backups.end(
        Backup(
            now.backend,
            tuple(report.schemas),
            tuple(zip(definitions, map(tuple, tables), strict=True)),
            tuple(report.left_out),
            {each.schema: collations[each.schema] for each in definitions if collations},
        )
    )
    if keep is not None:
        try:
            report.removed = backups.prune(keep)
        except NpyError as error:
            raise type(error)(
                f"the backup {report.name} was written, but not all earlier ones that should go "
                f"were removed: {error}"
            ) from error
    return report


def backups(store: str | None = None, *, connection: Any = None) -> list[str]:
    """
    Return the names of the backups in a store, oldest first.

    Parameters
    ----------
    store : str, optional
        Name of a store in DataJoint's configuration. Default: the default one.
    connection : datajoint.Connection, optional
        Whose configuration counts; no query is made. Default: DataJoint's configuration.

    Examples
    --------
    >>> name = dj_npy.backup(schema).name
    >>> dj_npy.backups(connection=schema.connection) == [name]
    True
    """
    config = dj.config if connection is None else connection._config
    return Backups(config, store).names()


def _schemas_of_datajoint(now: Snapshot) -> list[str]:
    """Return the schemas that have a table of DataJoint's own."""
    names = set(now.schemas())
    if now.backend == "postgresql":
        names &= {name for (name,) in now.select(_VISIBLE)}
    found = sorted({each[0] for each in now.attributes(names) if each[1].startswith("~")})
    if not found:
        raise ArrayInvalidError("no schema of DataJoint's is visible to this account")
    return found


def _work_items(
    definitions: Sequence[Definition], selection: Selection, backups: Backups
) -> Iterator[WorkItem]:
    for number, (each, folder) in enumerate(zip(definitions, file_names(definitions), strict=True)):
        names = [attribute.name for attribute in each.attributes]
        key = [n for n, attribute in enumerate(each.attributes) if attribute.in_key]
        for rows in chunks_of(selection.cells(each), key):
            yield WorkItem(
                number,
                [Task(partial(backups.write, folder, names, rows))],
                sum(map(length_of, rows)),
                workers=lambda: backups.place.store.writers,
            )


def _array_stores(now: Snapshot, definitions: Sequence[Definition]) -> list[str]:
    tables = {each.name for each in definitions}
    columns = now.columns({each.schema for each in definitions})
    found = [each for each in columns if (each.schema, each.table) in tables]
    default = now.connection._config.stores.get("default")
    return sorted({name or str(default) for name in now.stores(found)})
