"""The report of a migration."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dj_npy._moves.findings import Removals
from dj_npy._text import in_units
from dj_npy._upkeep.verify import Finding

_SHOWN = 10
"""Kinds of values that a text lists."""
_NEXT = {
    "not begun": "next: copy",
    "copying": "next: switch, or undo",
    "switched": "next: finish, or undo",
}


@dataclass
class Migrated(Removals):
    """
    The result of `migrate`.

    ``str(migrated)`` is text, ``migrated.to_json()`` JSON.
    """

    table: str
    """Schema and table."""
    attributes: list[str]
    """Its attributes."""
    step: str
    """What was done."""
    state: str = "not begun"
    """``"not begun"``, ``"copying"`` or ``"switched"``; ``"not begun"`` also when all is done."""
    rows: int = 0
    """Values that were looked at by *survey*, or copied by another step."""
    nbytes: int = 0
    """Bytes of them, in the database or the store."""
    kinds: Counter[str] = field(default_factory=Counter)
    """For *survey*: the dtypes and shapes, with the number of values of each."""
    seconds: float | None = None
    """For *survey*: how long reading and unpacking takes, as measured with some of them."""
    changed: int = 0
    """Rows that somebody else changed or deleted while they were copied."""
    to_do: int = 0
    """Values that are still to be copied."""
    definition: list[str] = field(default_factory=list)
    """The lines of the table's definition, as they have to be from the switch on."""

    def add(self, what: str, key: Mapping[str, Any], attribute: str, message: str) -> None:
        """Report a value that cannot be converted."""
        self.note(Finding(what, self.table, dict(key), attribute, None, None, message))

    def __str__(self) -> str:
        names = ", ".join(self.attributes)
        verb = "looked at" if self.step == "survey" else "copied"
        lines = [f"{self.table}, {names}: {self.rows:,} values {verb}, {in_units(self.nbytes)}"]
        lines += [f"{count:>10,} {what}" for what, count in self.kinds.most_common(_SHOWN)]
        if self.seconds is not None:
            lines.append(f"to read and unpack them takes about {self.seconds:.0f} s")
        lines += [
            f"{count:>10,} {what}"
            for count, what in (
                (self.changed, "rows were changed or deleted meanwhile"),
                (self.to_do, "values are still to be copied"),
                (self.removed, "files removed"),
                (self.shared, "files kept, as other rows refer to them"),
                *(
                    (count, f"values cannot be converted: {what}")
                    for what, count in self.counts.items()
                ),
            )
            if count
        ]
        lines += self.finding_lines()
        lines += [f"not removed: {failure}" for failure in self.failures]
        if self.definition:
            lines += [
                "the definition of the table has to say:",
                *map("    {}".format, self.definition),
            ]
        if self.step not in ("finish", "undo"):
            lines.append(f"{self.state}; {_NEXT[self.state]}")
        return "\n".join(lines)
