"""The report of what was moved."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dj_npy._format.layout import Column
from dj_npy._moves.rows import Stored, shown_key
from dj_npy._text import in_units
from dj_npy._upkeep.verify import Finding

_KEPT = 10_000
"""Findings that a report lists; all are counted."""


@dataclass
class Moved:
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
    counts: Counter[str] = field(default_factory=Counter)
    """Number of rows that were left alone because of their files, by the words of `Finding`."""
    findings: list[Finding] = field(default_factory=list)
    """What is wrong with these files; the first 10,000."""
    removed: int = 0
    """Number of old files that were removed."""
    shared: int = 0
    """Number of old files that were not, as other rows refer to them."""
    failures: list[str] = field(default_factory=list)
    """What could not be removed, and why."""

    @property
    def ok(self) -> bool:
        """Whether no file was wrong, and all were removed that should be."""
        return not self.counts and not self.failures

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
        said = stored.row.json if isinstance(stored.row.json, dict) else {}
        store, path = (
            v if isinstance(v, str) else None for v in (said.get("store"), said.get("path"))
        )
        for key in keys:
            self.counts[what] += 1
            if len(self.findings) < _KEPT:
                by_name = shown_key(column, key)
                self.findings.append(
                    Finding(
                        what, column.table_name, by_name, column.attribute, store, path, message
                    )
                )

    def to_json(self) -> str:
        """Return the whole report as JSON."""
        findings = [finding._asdict() for finding in self.findings]
        return json.dumps({"ok": self.ok, **vars(self), "findings": findings}, indent=2)

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
        for each in self.findings:
            key = ", ".join(f"{name}={value}" for name, value in each.key.items())
            lines.append(f"{each.what}: {each.table} ({key}) {each.attribute}: {each.message}")
        if (more := self.counts.total() - len(self.findings)) > 0:
            lines.append(f"... and {more:,} more")
        return "\n".join([*lines, *(f"not removed: {failure}" for failure in self.failures)])
