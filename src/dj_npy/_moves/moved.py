"""The report of what was moved."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dj_npy._format.layout import Column
from dj_npy._moves.findings import Removals, where_it_was
from dj_npy._moves.rows import Stored, shown_key
from dj_npy._text import in_units
from dj_npy._upkeep.verify import Finding


@dataclass
class Moved(Removals):
    """
    The result of `move` and `relocate`.

    ``str(moved)`` is text, ``moved.to_json()`` JSON.
    """

    store: str
    """Name of the store to which the rows refer now."""
    rows: int = 0
    """Number of rows that were changed."""
    files: int = 0
    """Number of their files."""
    nbytes: int = 0
    """Size of these files in bytes."""
    already: int = 0
    """Number of rows that referred to that store before."""
    changed: int = 0
    """Number of rows that somebody else changed or deleted meanwhile. They were left alone."""

    def count(self, stored: Stored, told: int) -> None:
        """Count a file, of whose rows so many were changed."""
        self.changed += len(stored.keys) - told
        if told:
            self.rows, self.files = self.rows + told, self.files + 1
            self.nbytes += stored.file_nbytes

    def add(
        self,
        column: Column,
        stored: Stored,
        keys: Sequence[tuple[Any, ...]],
        what: str,
        message: str,
    ) -> None:
        """Report the file of some rows."""
        store, path = where_it_was(stored.row)
        for key in keys:
            by_name = shown_key(column, key)
            table, attribute = column.table_name, column.attribute
            self.note(Finding(what, table, by_name, attribute, store, path, message))

    def __str__(self) -> str:
        size = in_units(self.nbytes)
        lines = [
            f"{self.rows:,} rows now refer to store {self.store!r}: {self.files:,} files, {size}"
        ]
        lines += [
            f"{count:>10,} {what}"
            for count, what in (
                (self.already, "rows referred to it before"),
                (self.changed, "rows were changed or deleted meanwhile, and left alone"),
                (self.removed, "old files removed"),
                (self.shared, "old files kept, as other rows refer to them"),
                *((count, f"rows left alone: {what}") for what, count in self.counts.items()),
            )
            if count
        ]
        lines += self.finding_lines()
        return "\n".join([*lines, *(f"not removed: {failure}" for failure in self.failures)])
