"""Many rows at once: insert them, their arrays being written side by side."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dj_npy._array.ref import NpyRef
from dj_npy._concurrency.progress import Progress
from dj_npy._datajoint.context import Bulk, bulk, call_with
from dj_npy._datajoint.daskvalues import is_dask
from dj_npy._format.blocks import Blocks
from dj_npy._settings import thread_count


def insert(
    table: Any,
    rows: Any,
    *,
    max_workers: int | None = None,
    progress: bool = False,
    **options: Any,
) -> None:
    """
    Insert rows, their arrays being written side by side.

    As ``table.insert(rows, **options)``, errors included. If a row or the database refuses, the
    files are removed; so are those of rows that ``skip_duplicates`` has skipped, which it takes
    a walk over the table's column to find, in a transaction with the INSERT. Where a row may be
    there, or a trigger may have copied it, the files stay.

    Parameters
    ----------
    table : datajoint.Table
        A table, or its class.
    rows
        As `datajoint.Table.insert` takes them. If they are made as they are asked for, by a
        generator for one, arrays up to 64 MiB are copied, so that the next row may be made
        in the same memory, and larger ones are written before it is asked for.
    max_workers : int, optional
        Threads. Default ``dj_npy.settings.max_workers``. They are at work on 256 MiB at a time,
        or on one array.
    progress : bool
        Show a bar.
    options
        ``replace``, ``skip_duplicates``, ``ignore_extra_fields``, ``allow_direct_insert``,
        ``chunk_size``: those of `datajoint.Table.insert`.

    Raises
    ------
    datajoint.DataJointError
        Whatever ``table.insert`` raises.

    Examples
    --------
    >>> rows = [{"recording_id": i, "waveform": np.random.randn(1000, 32)} for i in range(10, 20)]
    >>> dj_npy.insert(Recording, rows)
    """
    with Progress("insert", _total_of_rows(rows) if progress else None) as bar:
        how = Bulk(thread_count(max_workers), bar.add)
        call_with({bulk: how}, lambda: table.insert(rows, **options))


def _total_of_rows(rows: Any) -> tuple[int, int]:
    """The same of rows that are to be inserted; zero where they are only made when asked for."""
    if not isinstance(rows, (list, tuple, np.ndarray)):
        return 0, 0
    arrays = [
        value
        for row in rows
        for value in (row.values() if isinstance(row, Mapping) else row)
        if isinstance(value, (np.ndarray, NpyRef, Blocks)) or is_dask(value)
    ]
    return len(arrays), sum(value.nbytes for value in arrays)
