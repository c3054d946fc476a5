"""How much of each store the arrays take, from the rows alone."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import datajoint as dj

from dj_npy._concurrency.progress import Progress
from dj_npy._datajoint.catalog import connection_of, schema_name, snapshot
from dj_npy._errors import ArrayCorruptError, ArrayInvalidError
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._moves.rows import value_text
from dj_npy._text import in_units
from dj_npy._upkeep.collect import collect
from dj_npy._upkeep.collection import Collection
from dj_npy._upkeep.verify import check_argument, selected


class Used(NamedTuple):
    """What the arrays of one attribute take in one store."""

    schema: str
    table: str
    attribute: str
    store: str | None
    """Name of the store, in the rows; None if they name none and there is no default."""
    by: str | None
    """Value of the attribute of the key by which arrays were divided; None for others' tables."""
    arrays: int
    nbytes: int
    """Size of the files in bytes, headers included."""


@dataclass
class Usage:
    """
    The result of `usage`.

    ``str(usage)`` is text, ``usage.to_json()`` JSON.
    """

    by: str | None = None
    """The attribute of the key by which arrays were divided."""
    arrays: int = 0
    """Number of arrays. One that several rows share counts for each."""
    nbytes: int = 0
    """Size of their files in bytes."""
    invalid: int = 0
    """Number of rows whose JSON tells no size; `dj_npy.verify` lists them."""
    used: list[Used] = field(default_factory=list)
    """The largest first."""
    collectable: Collection | None = None
    """What `collect` would remove, if that was asked for."""

    @property
    def ok(self) -> bool:
        """Whether all rows tell a size."""
        return not self.invalid

    @property
    def schemas(self) -> dict[str, int]:
        """Size in bytes of the arrays of each schema, the largest first."""
        return self._by_item("schema")

    @property
    def stores(self) -> dict[str | None, int]:
        """Size in bytes of the arrays in each store, the largest first."""
        return self._by_item("store")

    def _by_item(self, name: str) -> dict[Any, int]:
        nbytes: Counter[Any] = Counter()
        for each in self.used:
            nbytes[getattr(each, name)] += each.nbytes
        return dict(nbytes.most_common())

    def to_json(self) -> str:
        """Return the whole report as JSON."""
        found = self.collectable
        own = {
            **vars(self),
            "used": [each._asdict() for each in self.used],
            "schemas": self.schemas,
            # The name of no store would be the text "null".
            "stores": {name or "": nbytes for name, nbytes in self.stores.items()},
            "collectable": found
            and {"arrays": found.arrays, "nbytes": found.nbytes, "counts": found.counts},
        }
        return json.dumps({"ok": self.ok, **own}, indent=2)

    def __str__(self) -> str:
        lines = [f"{self.arrays:,} arrays, {in_units(self.nbytes)}"]
        lines += [f"schema {name}: {in_units(nbytes)}" for name, nbytes in self.schemas.items()]
        lines += [f"store {name!r}: {in_units(nbytes)}" for name, nbytes in self.stores.items()]
        for each in self.used:
            name = f"{each.schema}.{each.table}.{each.attribute} in {each.store!r}"
            divided = "" if each.by is None else f", {self.by}={each.by}"
            lines.append(f"{each.arrays:>10,} {name}{divided}: {in_units(each.nbytes)}")
        if self.invalid:
            lines.append(f"{self.invalid:,} rows tell no size: see dj-npy verify")
        if (found := self.collectable) is not None:
            count = sum(found.counts.values())
            lines.append(f"collect would free {in_units(found.nbytes)} of {count:,} files")
        return "\n".join(lines)


def usage(
    *schemas_or_tables: Any,
    by: str | None = None,
    collectable: bool = False,
    progress: bool = False,
) -> Usage:
    """
    Count arrays and their bytes by schema, table, attribute and store.

    From the rows alone, which have shape, dtype and store of each array: no request to a store.
    The rows are read in one snapshot; memory use does not grow with their number.

    Parameters
    ----------
    schemas_or_tables : datajoint.Schema, str, datajoint.Table or query
        Names of schemas, schemas, tables, or restricted tables. Default: all schemas of the
        database.
    by : str, optional
        An attribute of primary keys, such as ``"subject"``: count for each of its values.
    collectable : bool
        Also find out what `collect` would free. This lists the stores.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Usage
        ``usage.arrays``, ``usage.nbytes``, ``usage.used``, ``usage.schemas``, ``usage.stores``,
        ``usage.collectable``, ``usage.to_json()``.

    Raises
    ------
    ArrayInvalidError
        For an argument of another type, a schema that does not exist, or an attribute that no
        primary key has.
    datajoint.DataJointError
        If the database refuses a query.

    Examples
    --------
    >>> found = dj_npy.usage(Recording)
    >>> found.arrays, found.nbytes
    (1, 256128)
    """
    given = [check_argument(each, "usage") for each in schemas_or_tables]
    if collectable and any(schema_name(each) is None for each in given):
        raise ArrayInvalidError(
            "what collect would free is known of schemas, not of tables: dj_npy.usage(schema, "
            "collectable=True)"
        )
    if not given:
        with snapshot(dj.conn()) as now:
            given = list(dict.fromkeys(each.schema for each in now.columns(now.schemas())))
    report = Usage(by)
    counts: Counter[tuple[Any, ...]] = Counter()
    sizes: Counter[tuple[Any, ...]] = Counter()
    names_of_keys: set[str] = set()
    with Progress("usage", (0, 0) if progress else None) as bar:
        for each in given:
            for table, names, attribute, default, found in _rows(each):
                names_of_keys.update(names)
                at = names.index(by) if by in names else None
                schema, _, table_name = table.rpartition(".")
                for *key, stored in found:
                    row = ArrayMetadata.of(stored)
                    try:
                        store, nbytes = row.store or default, row.file_nbytes
                    except ArrayCorruptError:
                        report.invalid += 1
                        continue
                    value = None if at is None else value_text(key[at])
                    group = (schema, table_name, attribute, store, value)
                    counts[group] += 1
                    sizes[group] += nbytes
                    bar.add(nbytes)
    if by is not None and by not in names_of_keys:
        known = ", ".join(sorted(names_of_keys)) or "none"
        raise ArrayInvalidError(f"no primary key has an attribute {by!r}; there are: {known}")
    report.used = [
        Used._make((*group, counts[group], nbytes)) for group, nbytes in sizes.most_common()
    ]
    report.arrays, report.nbytes = counts.total(), sizes.total()
    if collectable and given:
        report.collectable = collect(*given)
    return report


def _rows(given: Any) -> Iterator[tuple[str, Sequence[str], str, Any, Iterable[tuple[Any, ...]]]]:
    """As `selected`, with the name of the default store."""
    connection = connection_of(given)
    default = connection._config.stores.get("default")
    with snapshot(connection) as now:
        for table, names, attribute, found in selected(given, now):
            yield table, list(names), attribute, default, found
