"""Read rows that are to be migrated, as many at a time as memory allows."""

import pickle
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from dj_npy._concurrency.pipeline import Task, WorkItem
from dj_npy._moves.convert import Converter
from dj_npy._moves.twin import Twin
from dj_npy._upkeep.ondisk import OnDisk

_KEYS, _BATCH = 256, 16 << 20
"""Rows, and bytes of their values, that are read at once."""


class Keys(OnDisk):
    """Keys of rows, on disk."""

    def __init__(self) -> None:
        super().__init__()
        self._database.execute("CREATE TABLE keys (key BLOB)")

    def add(self, keys: Iterable[tuple[Any, ...]]) -> None:
        """Add some."""
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT INTO keys VALUES (?)", ((pickle.dumps(tuple(key)),) for key in keys)
        )
        self._database.execute("COMMIT")

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for (key,) in self._database.execute("SELECT key FROM keys"):
            yield pickle.loads(key)


def work_items_of(twin: Twin, keys: Iterable[Any], converter: Converter) -> Iterator[WorkItem]:
    """Yield a work item for each row with such a key, read a few at a time."""
    for some in _batched(keys, _KEYS):
        twin.claim(some)
        for few in _bounded(twin.sizes(some)):
            for *key, version, raw in twin.read(few):
                task = Task(partial(converter.convert, tuple(key), raw))
                nbytes = converter.values.memory(raw)
                yield WorkItem((tuple(key), version), [task], nbytes)


def _batched(keys: Iterable[Any], count: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for key in keys:
        batch.append(key)
        if len(batch) == count:
            yield batch
            batch = []
    if batch:
        yield batch


def _bounded(sizes: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """Yield keys in groups of few bytes."""
    group: list[tuple[Any, ...]] = []
    total = 0
    for *key, nbytes in sizes:
        if group and total + nbytes > _BATCH:
            yield group
            group, total = [], 0
        group.append(tuple(key))
        total += nbytes
    if group:
        yield group
