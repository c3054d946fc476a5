"""Insert many rows, and upload their arrays in parallel."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np

from dj_npy._array.arraylike import ArrayLike
from dj_npy._array.ref import NpyRef
from dj_npy._concurrency.progress import Progress
from dj_npy._datajoint.context import Bulk, bulk, call_with
from dj_npy._datajoint.daskvalues import is_dask
from dj_npy._errors import ArrayInvalidError
from dj_npy._format.blocks import Blocks
from dj_npy._settings import thread_count
from dj_npy._text import kind_of


def insert(
    table: Any,
    rows: Any,
    *,
    max_workers: int | None = None,
    progress: bool = False,
    **options: Any,
) -> None:
    """
    Insert rows, and write their arrays in parallel.

    As ``table.insert(rows, **options)``, with the same errors. If a row or the database refuses,
    the files are removed. So are the files of rows that ``skip_duplicates`` skipped; this needs a
    scan of the table's column, in one transaction with the INSERT. If a row may exist, or a trigger
    may have copied it, the files stay.

    Parameters
    ----------
    table : datajoint.Table
        A table, or its class.
    rows
        As for `datajoint.Table.insert`. If a generator makes them, arrays up to 64 MiB are copied,
        so that it may reuse the memory for the next row, and larger ones are written before the
        next row is requested.
    max_workers : int, optional
        Threads. Default: as many as the distance of the store asks for, and
        ``dj_npy.settings.max_workers`` at most. They work on 256 MiB at a time, or on one larger
        array.
    progress : bool
        Show a progress bar.
    options
        ``replace``, ``skip_duplicates``, ``ignore_extra_fields``, ``allow_direct_insert``,
        ``chunk_size``, as for `datajoint.Table.insert`.

    Raises
    ------
    datajoint.DataJointError
        As ``table.insert`` does. An `ArrayInvalidError` names table, attribute and key.

    Examples
    --------
    >>> rows = [{"recording_id": i, "waveform": np.random.randn(1000, 32)} for i in range(10, 20)]
    >>> dj_npy.insert(Recording, rows)
    """
    _check_call(table, rows)
    with Progress("insert", _total_of_rows(rows) if progress else None) as bar:
        how = Bulk(None if max_workers is None else thread_count(max_workers), bar.add)
        call_with({bulk: how}, lambda: table.insert(rows, **options))


def _check_call(table: Any, rows: Any) -> None:
    """Reject what is no table, and what is not many rows, before it is iterated."""
    if not issubclass(table if isinstance(table, type) else type(table), dj.Table):
        raise ArrayInvalidError(
            f"dj_npy.insert takes a table, not {kind_of(table)}: dj_npy.insert(Recording, rows)"
        )
    if isinstance(rows, Mapping | np.void):
        right = "Recording.insert1(row), or dj_npy.insert(Recording, [row])"
    elif _is_one_array(rows) or not isinstance(rows, Iterable | Path | type):
        right = 'dj_npy.insert(Recording, [{"recording_id": 1, "waveform": array}])'
    else:
        return
    raise ArrayInvalidError(f"dj_npy.insert takes many rows, not {kind_of(rows)}: use {right}")


def _is_one_array(rows: Any) -> bool:
    """Whether it is no rows but a value. Two axes may be rows of values by position."""
    if isinstance(rows, np.ndarray):
        return rows.ndim != 2 and not (rows.dtype.hasobject or rows.dtype.names)
    return isinstance(rows, ArrayLike | Blocks | str | bytes)


def _total_of_rows(rows: Any) -> tuple[int, int]:
    """Return number and bytes of the arrays in `rows`; zeros for a generator."""
    if not isinstance(rows, (list, tuple, np.ndarray)):
        return 0, 0
    arrays = [
        value
        for row in rows
        if not isinstance(row, ArrayLike)  # which is refused later
        for value in (row.values() if isinstance(row, Mapping) else row)
        if isinstance(value, (np.ndarray, NpyRef, Blocks)) or is_dask(value)
    ]
    return len(arrays), sum(value.nbytes for value in arrays)
