"""What the reports of this room have in common: values and files that are not as they should be."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dj_npy._format.metadata import ArrayMetadata
from dj_npy._upkeep.verify import SOUND, Finding, examine

_KEPT = 10_000
"""Findings that a report lists; all are counted."""


@dataclass(kw_only=True)
class Findings:
    """The part of a report that tells what is wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    """Number of values that were left alone, by what is wrong, in the words of `Finding`."""
    findings: list[Finding] = field(default_factory=list)
    """What is wrong with each; the first 10,000."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.counts

    def note(self, finding: Finding) -> None:
        """Count what is wrong, and list it."""
        self.counts[finding.what] += 1
        if len(self.findings) < _KEPT:
            self.findings.append(finding)

    def to_json(self) -> str:
        """Return the whole report as JSON."""
        findings = [finding._asdict() for finding in self.findings]
        return json.dumps({"ok": self.ok, **vars(self), "findings": findings}, indent=2)

    def finding_lines(self) -> Iterator[str]:
        """Yield the findings as lines of a text."""
        for each in self.findings:
            key = ", ".join(f"{name}={value}" for name, value in each.key.items())
            yield f"{each.what}: {each.table} ({key}) {each.attribute}: {each.message}"
        if (more := self.counts.total() - len(self.findings)) > 0:
            yield f"... and {more:,} more"


@dataclass(kw_only=True)
class Insertions:
    """The part of a report that tells which rows were inserted."""

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
    left_out: list[str] = field(default_factory=list)
    """What of the tables was left out where the rows come from."""

    @property
    def inserted(self) -> str:
        """The verb of the first line of a text."""
        return "would be inserted" if self.dry_run else "were inserted"

    def table_lines(self) -> Iterator[str]:
        """Yield the tables as lines of a text."""
        yield from (f"{rows:>10,} {table}" for table, rows in self.tables.items())
        if self.already:
            yield f"{self.already:>10,} rows were there before, and are equal"


@dataclass(kw_only=True)
class Removals(Findings):
    """The part of a report that tells what became of old files."""

    removed: int = 0
    """Number of old files that were removed."""
    shared: int = 0
    """Number of old files that were not, as other rows refer to them."""
    failures: list[str] = field(default_factory=list)
    """What could not be removed, and why."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, and all was removed that should be."""
        return not self.counts and not self.failures


def where_it_was(row: ArrayMetadata) -> tuple[str | None, str | None]:
    """Return the store and the path that a row names, for a report; None where it does not."""
    said = row.json if isinstance(row.json, dict) else {}
    store, path = (said.get(name) for name in ("store", "path"))
    return store if isinstance(store, str) else None, path if isinstance(path, str) else None


def why_not_copied(row: ArrayMetadata, config: Any, error: Exception | None) -> tuple[str, str]:
    """Return what is wrong with a file that could not be copied, and a message."""
    what, message = examine(row, config, checksums=True)
    if what == "changed since insert":
        message = "through mmap_mode='r+': insert ref.load() in its place"
    elif what in SOUND:
        what, message = "unreadable", str(error or "it changed while it was read")
    return what, message
