"""Tell that a store is the one that some rows mean: it was moved, merged or restored."""

import random
from collections import Counter
from typing import Any

from dj_npy._concurrency.threads import all_in_threads
from dj_npy._datajoint.catalog import connection_of, schema_name, snapshot
from dj_npy._datajoint.storerows import rows_of
from dj_npy._errors import ArrayInvalidError, StoreError
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._stores import identity, open_store

_SAMPLES = 50
_AT_ONCE = 16


def adopt(schema_or_table: Any, store: str | None = None, *, force: bool = False) -> list[str]:
    """
    Tell that a store is the one that the rows of a schema or a table were written to.

    Needed only where the file ``.dj-npy-store`` at the store's root has not come along: after a
    move that left it behind, a restored copy without it, or when two stores were put together.
    Some files of each store that the rows name are looked for; then its id is written into that
    file, beside those that are there.

    Parameters
    ----------
    schema_or_table : datajoint.Schema, str or datajoint.Table
        Whose rows.
    store : str, optional
        Name of the store. Default: the default one.
    force : bool
        Also where most of the files are not there.

    Returns
    -------
    list of str
        The ids of the store from now on. New rows get the first.

    Raises
    ------
    StoreError
        If most of the files are not there: nothing was written. Or if the store cannot be
        written to.
    ArrayInvalidError
        For what is neither schema nor table, or not there.

    Examples
    --------
    >>> ids = dj_npy.adopt(schema, "main")
    """
    schema = schema_name(schema_or_table)
    table = None
    if schema is None:
        table = schema_or_table() if isinstance(schema_or_table, type) else schema_or_table
        schema = getattr(table, "database", None)
        if not isinstance(schema, str):
            raise ArrayInvalidError(
                f"expected a schema, its name or a table, not {type(schema_or_table).__name__}"
            )
    connection = connection_of(schema_or_table if table is None else table)
    place = open_store(connection._config, store)
    counts: Counter[str | None] = Counter()
    samples: dict[str | None, list[ArrayMetadata]] = {}
    with snapshot(connection) as now:
        columns = now.columns([schema])
        if table is not None:
            columns = [each for each in columns if each.table == table.table_name]
        for row in rows_of(now, columns, place, connection._config.stores.get("default")):
            _sample(row, counts, samples)
    found = identity.read(place)
    if found is None:
        raise StoreError(f"the file .dj-npy-store in store {place.name!r} may not be read")
    if not force:
        for said, rows in samples.items():
            if said not in found:
                _check(place, said, rows, counts[said])
    ids = (*found, *(said for said, _ in counts.most_common() if said and said not in found))
    if not ids:
        ids = identity.first(place)
    elif ids != found:
        identity.replace(place, ids)
    place.known = None
    return list(ids)


def _sample(
    row: ArrayMetadata, counts: Counter[str | None], samples: dict[str | None, list[ArrayMetadata]]
) -> None:
    """Keep some rows of each store, each as likely as the others."""
    counts[row.store_id] += 1
    kept = samples.setdefault(row.store_id, [])
    if len(kept) < _SAMPLES:
        kept.append(row)
    elif (at := random.randrange(counts[row.store_id])) < _SAMPLES:
        kept[at] = row


def _check(place: Any, said: str | None, rows: list[ArrayMetadata], count: int) -> None:
    """Raise if most of some rows' files are not there."""
    missing: list[str] = []

    def look(row: ArrayMetadata) -> bool:
        if not identity.is_there(place, row):
            missing.append(row.path)
        return True

    all_in_threads(look, rows, _AT_ONCE)
    if 2 * len(missing) > len(rows):
        raise StoreError(
            f"store {place.name!r} was not adopted: of {count:,} rows that were written to "
            f"{f'store {said}' if said else 'a store without an id'}, {len(rows)} were looked at, "
            f"and the files of {len(missing)} are not there, or of another size, such as "
            f"{missing[0]!r}. Copy them there first, or, if they are lost, use force"
        )
