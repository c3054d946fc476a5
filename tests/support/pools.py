"""
A program that hands rows to the workers of pools: ``python -m tests.support.pools STORES NAME...``.

Of the stores, `main` is configured where this runs, `archive` nowhere. It prints a line of JSON for
each pool: its name, how many workers have read, and what is said of `archive`. At the end, workers
of joblib are told of `archive`, and handed arrays beside it.
"""

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import datajoint as dj
import joblib
import numpy as np

import dj_npy
from tests.support.references import reference, used

Call = Callable[[Any], Any]
Pool = Callable[[list[tuple[Call, Any]]], Iterable[Any]]


def refused(ref: dj_npy.NpyRef) -> tuple[int, str]:
    try:
        ref.load()
    except dj_npy.StoreError as error:
        return os.getpid(), str(error)
    return os.getpid(), ""


def same_from_disk(given: tuple[dj_npy.NpyRef, Any]) -> bool:
    """Whether an array came as a map of a file, and is the one that a reference is of."""
    ref, array = given
    return type(array) is np.memmap and not ref.is_loaded and bool((ref.read() == array).all())


def executor(method: str, tasks: list[tuple[Call, Any]]) -> Iterable[Any]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        futures = [pool.submit(call, argument) for call, argument in tasks]
        return [future.result(120) for future in futures]


def parallel(backend: str, tasks: list[tuple[Call, Any]], **options: Any) -> Iterable[Any]:
    calls = (joblib.delayed(call)(argument) for call, argument in tasks)
    workers = joblib.Parallel(2, backend=backend, timeout=120, **options)
    return workers(calls)  # type: ignore[no-any-return]


def configure(stores: dict[str, Any]) -> None:
    dj.config.stores = stores


POOLS: dict[str, Pool] = {
    **{name: partial(executor, name) for name in multiprocessing.get_all_start_methods()},
    **{name: partial(parallel, name) for name in ("loky", "multiprocessing", "threading")},
}


def main(stores: dict[str, Any], names: list[str]) -> None:
    multiprocessing.set_forkserver_preload(["tests.support.pools"])
    arrays = [np.random.default_rng(n).random((400, 500)) for n in range(4)]
    rows: list[dict[str, Any]] = [
        {"recording_id": n, "waveform": reference(array, stores, n)}
        for n, array in enumerate(arrays)
    ]
    archived = reference(arrays[0], {**stores, "default": "archive"})
    expected = [(array[3:5, 1].tolist(), float(array.sum())) for array in arrays]
    for row, array in zip(rows, arrays, strict=True):
        assert (row["waveform"].load() == array).all()
        assert len(ForkingPickler.dumps(row)) < 1000
    for name in names:
        *found, (process, said) = POOLS[name]([*((used, row) for row in rows), (refused, archived)])
        assert [(each.part, each.total) for each in found] == expected, name
        for each, array in zip(found, arrays, strict=True):
            assert each.is_loaded == (name == "threading"), name
            assert (each.ref.load() == array).all(), name
        workers = {process, *(each.process for each in found)} - {os.getpid()}
        print(json.dumps([name, len(workers), said.replace(f" {process} ", " of the worker ")]))
    if "loky" not in names:
        return
    given = [(archived, array) for array in (archived.load(), archived.load(mmap_mode="r"))]
    tasks: list[tuple[Call, Any]] = [(same_from_disk, each) for each in given]
    told = parallel("loky", tasks, initializer=configure, initargs=(stores,))
    assert list(told) == [True, True]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
