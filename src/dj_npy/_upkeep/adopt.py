"""Confirm that a moved, merged or restored store is the one that its rows mean."""

import random
from collections import Counter
from typing import Any

from dj_npy._concurrency.threads import all_in_threads
from dj_npy._datajoint.catalog import connection_of, schema_name, snapshot
from dj_npy._datajoint.storerows import rows_of
from dj_npy._errors import ArrayInvalidError, StoreError
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._stores import identity, open_store
from dj_npy._text import kind_of

_SAMPLES = 50
_AT_ONCE = 16


def adopt(schema_or_table: Any, store: str | None = None, *, force: bool = False) -> list[str]:
    """
    Confirm that a store is the one to which the rows of a schema or a table were written.

    Needed only if the file ``.dj-npy-store`` at the store's root is missing: after a move without
    it, a restore without it, or a merge of two stores. Checks some files of each store that the
    rows name; then adds its id to the ids in that file.

    Parameters
    ----------
    schema_or_table : datajoint.Schema, str or datajoint.Table
        A schema or a table.
    store : str, optional
        Name of the store. Default: the default one.
    force : bool
        Adopt even if most of the files are missing.

    Returns
    -------
    list of str
        The new ids of the store. New rows get the first.

    Raises
    ------
    StoreError
        If most of the files are missing: nothing was written. Or if the store is not writable.
    ArrayInvalidError
        If it is neither a schema nor a table, or does not exist.

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
                f"expected a schema, its name or a table, not {kind_of(schema_or_table)}"
            )
    connection = connection_of(schema_or_table if table is None else table)
    target = open_store(connection._config, store)
    counts: Counter[str | None] = Counter()
    samples: dict[str | None, list[ArrayMetadata]] = {}
    with snapshot(connection) as now:
        columns = now.columns([schema])
        if table is not None:
            columns = [each for each in columns if each.table == table.table_name]
        for row in rows_of(now, columns, target, connection._config.stores.get("default")):
            _sample(row, counts, samples)
    found = identity.read(target)
    if found is None:
        raise StoreError(f"the file .dj-npy-store in store {target.name!r} may not be read")
    if not force:
        for store_id, rows in samples.items():
            if store_id not in found:
                _check_files(target, store_id, rows, counts[store_id])
    ids = (
        *found,
        *(store_id for store_id, _ in counts.most_common() if store_id and store_id not in found),
    )
    if not ids:
        ids = identity.assign_id(target)
    elif ids != found:
        identity.replace(target, ids)
    target.known = None
    return list(ids)


def _sample(
    row: ArrayMetadata, counts: Counter[str | None], samples: dict[str | None, list[ArrayMetadata]]
) -> None:
    """Keep a uniform random sample of the rows of each store."""
    counts[row.store_id] += 1
    kept = samples.setdefault(row.store_id, [])
    if len(kept) < _SAMPLES:
        kept.append(row)
    elif (at := random.randrange(counts[row.store_id])) < _SAMPLES:
        kept[at] = row


def _check_files(target: Any, store_id: str | None, rows: list[ArrayMetadata], count: int) -> None:
    """Raise if most of some rows' files are missing."""
    missing: list[str] = []

    def look(row: ArrayMetadata) -> bool:
        if not identity.is_there(target, row):
            missing.append(row.path)
        return True

    all_in_threads(look, rows, _AT_ONCE)
    if 2 * len(missing) > len(rows):
        raise StoreError(
            f"store {target.name!r} was not adopted: of {count:,} rows that were written to "
            f"{f'store {store_id}' if store_id else 'a store without an id'}, {len(rows)} were "
            f"looked at, and the files of {len(missing)} are not there, or of another size, such "
            f"as {missing[0]!r}. Copy them there first, or, if they are lost, use force"
        )
