"""Bring schemas, tables and rows back from a backup."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import datajoint as dj

from dj_npy._concurrency.progress import Progress
from dj_npy._datajoint.catalog import schema_name
from dj_npy._errors import ArrayInvalidError, StoreError
from dj_npy._moves.backups import Backup, Backups
from dj_npy._moves.definitions import Definition
from dj_npy._moves.findings import Findings, Insertions
from dj_npy._moves.incoming import Incoming, Target, check_values, decoded
from dj_npy._moves.rowfiles import Cells
from dj_npy._upkeep.verify import SOUND, verify

_EXACT = ["utf8mb4_0900_bin", "utf8mb4_nopad_bin", "utf8mb4_bin"]
"""Of MySQL and MariaDB: tell all texts apart, as PostgreSQL does."""


@dataclass
class Restored(Insertions, Findings):
    """
    The result of `restore`.

    ``str(restored)`` is text, ``restored.to_json()`` JSON.
    """

    store: str
    """Name of the store that the backup is in."""
    backup: str
    """Its name."""
    arrays: int = 0
    """Number of arrays of all rows; `findings` lists those whose file is missing or damaged."""

    def __str__(self) -> str:
        lines = [f"{self.rows:,} rows of backup {self.backup} {self.inserted}"]
        lines += self.table_lines()
        if not self.dry_run:
            lines.append(f"{self.arrays:,} arrays checked, {self.counts.total():,} with a finding")
        lines += [f"left out: {what}" for what in self.left_out]
        return "\n".join([*lines, *self.finding_lines()])


def restore(
    *schemas: Any,
    store: str | None = None,
    backup: str | None = None,
    connection: Any = None,
    dry_run: bool = False,
    progress: bool = False,
) -> Restored:
    """
    Make the schemas, tables and rows of a backup that `backup` has written.

    First all of it is checked: that each file has its hash, that each value is one that this
    database can hold, that tables and rows which are there already fit. If anything is wrong,
    nothing is changed. Rows that are there and equal are skipped: if this is stopped or killed,
    call it again. In the end, the arrays of the rows are looked for as by `verify`.

    Parameters
    ----------
    *schemas : datajoint.Schema or str
        Schemas or their names; with them come the rows of others to which these refer. Default:
        all.
    store : str, optional
        Name of the store that the backup is in. Default: the default one.
    backup : str, optional
        Name of the backup. Default: the newest.
    connection : datajoint.Connection, optional
        Default: ``dj.conn()``.
    dry_run : bool
        Only check.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Restored
        ``restored.ok``, ``restored.tables``, ``restored.findings``, ``restored.to_json()``.

    Raises
    ------
    ArrayInvalidError
        If there is no such backup or schema, or what is there does not fit.
    ArrayCorruptError
        If a file of the backup was changed, or a value cannot be stored.
    StoreError
        If a store cannot be used.
    datajoint.DataJointError
        If the database refuses a statement. What was inserted until then stays so.

    Examples
    --------
    >>> name = dj_npy.backup(schema).name
    >>> restored = dj_npy.restore(backup=name, connection=schema.connection)
    >>> restored.ok, restored.rows, restored.already
    (True, 0, 1)
    """
    connection = dj.conn() if connection is None else connection
    if connection.in_transaction:
        raise StoreError(
            "tables cannot be declared within a transaction: restore before it, or after"
        )
    backups = Backups(connection._config, store)
    name, found = backups.read(backup)
    left_out = list(found.left_out)
    report = Restored(backups.store_name, name, dry_run=dry_run, left_out=left_out)
    wanted = _wanted(schemas, found)
    tables = [
        Incoming(definition, definition, partial(backups.rows, definition, chunks))
        for definition, chunks in found.tables
        if definition.name in wanted
    ]
    backend, origin = connection.adapter.backend, f"the backup {name}"
    check_values(tables, backend, origin)
    advice = "Restore on a server without it"
    native = backend == found.database
    collations = (
        {schema: [collation] for schema, collation in found.collations.items()}
        if native
        else dict.fromkeys((each.given.schema for each in tables), _EXACT)
    )

    def values_of(incoming: Incoming, row: Cells) -> dict[str, Any]:
        return decoded(incoming.given, row, backend)

    with Target(
        connection, tables, origin, advice, native=native, has_files=True, collations=collations
    ) as target:
        target.check(lambda text: text)
        total = (0, sum(chunk.nbytes for _, chunks in found.tables for chunk in chunks))
        with Progress("restore", total if progress else None) as bar:
            target.insert(report, values_of, bar.add, arrays=False)
    if not dry_run:
        _verify(tables, connection, report)
    return report


def _wanted(schemas: Sequence[Any], found: Backup) -> set[tuple[str, str]]:
    """Return the tables of some schemas, and those to which these refer."""
    names = [schema_name(each) or str(each) for each in schemas]
    if unknown := [name for name in names if name not in found.schemas]:
        raise ArrayInvalidError(
            f"the backup has no schema {', '.join(unknown)}; it has {', '.join(found.schemas)}"
        )
    wanted: set[tuple[str, str]] = set()
    for definition, _ in reversed(found.tables):  # children first
        if not names or definition.schema in names or definition.name in wanted:
            wanted.add(definition.name)
            wanted |= {(key.schema, key.table) for key in definition.foreign_keys}
    return wanted


def _verify(tables: list[Incoming], connection: Any, report: Restored) -> None:
    """Look for the arrays of the tables."""

    def table_of(given: Definition) -> Any:
        return dj.FreeTable(connection, connection.adapter.make_full_table_name(*given.name))

    having = [each.target for each in tables if any(a.is_array for a in each.target.attributes)]
    if having:
        found = verify(*map(table_of, having))
        report.arrays = found.checked
        report.findings = [each for each in found.findings if each.what not in SOUND]
        for what, count in found.counts.items():
            if what not in SOUND:
                report.counts[what] = count
