"""`migrate` of blobs, against fetching them and inserting the arrays by hand."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np

import dj_npy
from benchmarks._measure import RUN, cost, faster, row, scratch
from tests.conftest import serving_mariadb, serving_mysql

ROWS = int(os.environ.get("DJ_NPY_BENCH_ROWS", 500))
AT_ONCE = 100
BY_HAND = "fetch and insert by hand"
ARRAY = np.random.default_rng(0).normal(size=(1000, 131))  # 1 MB, which zlib makes 4 % smaller


def main() -> None:
    """Print a line for each step on each database."""
    dj.logger.setLevel("ERROR")
    with scratch() as folder:
        for name, serving in SERVERS.items():
            with serving(folder / name) as connection:
                store = folder / f"{name}-store"
                store.mkdir()
                migrate(name, connection, store, min(ROWS, 100) if RUN.quick else ROWS)


def migrate(name: str, connection: Any, store: Path, rows: int) -> None:
    """Measure each step once, and the work by hand beside the first."""
    settings = {"protocol": "file", "location": str(store)}
    connection._config.stores = {"default": "main", "main": settings}
    schema = dj.Schema("bench_migrate", connection=connection)
    tables = [
        schema(type(each, (dj.Manual,), {"definition": f"n : int32\n---\nwaveform : {kind}"}))()
        for each, kind in (("Recording", "<blob>"), ("ByHand", "<npy@>"), ("Back", "<blob>"))
    ]
    recording, by_hand, back = tables
    for n in range(rows):  # servers limit how much they take at once
        recording.insert1({"n": n, "waveform": ARRAY + n})

    def hand() -> None:
        for some in parts(rows):
            query = recording & f"n >= {some.start} AND n < {some.stop}"
            dj_npy.insert(by_hand, query.to_dicts())

    def hand_back() -> None:
        for some in parts(rows):
            query = by_hand & f"n >= {some.start} AND n < {some.stop}"
            for each in query.to_dicts():  # servers limit how much they take at once
                back.insert1({**each, "waveform": each["waveform"].load()})

    def step(which: Any, to: Any) -> Callable[[], None]:
        def call() -> None:
            now = dj.FreeTable(connection, recording.full_table_name)
            found = dj_npy.migrate(now, "waveform", to=to, step=which)
            assert found.ok, found

        return call

    size = f"{rows:,} rows of 1 MB, {name}"
    for to, by, work in (("npy", hand, "to <npy@>"), ("blob", hand_back, "back to <blob>")):
        seconds = measured(by)
        for which, goal in (("copy", ">= 0.7x"), ("switch", None), ("finish", None)):
            times = {"dj-npy": [measured(step(which, to))], BY_HAND: [seconds]}
            against = faster(times, BY_HAND, goal) if goal else cost(times, BY_HAND, "no goal")
            row(f"`migrate` {work}, {which}: {size}", times, [against])
    for some in parts(rows):
        now = dj.FreeTable(connection, recording.full_table_name)
        for each in (now & f"n >= {some.start} AND n < {some.stop}").to_dicts():
            assert np.array_equal(each["waveform"], ARRAY + each["n"])
    schema.drop(prompt=False)


def parts(rows: int) -> Iterator[range]:
    """Yield the numbers of rows, some at a time."""
    for start in range(0, rows, AT_ONCE):
        yield range(start, min(start + AT_ONCE, rows))


def measured(call: Callable[[], None]) -> float:
    """Return its seconds."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@contextmanager
def postgresql(folder: Path) -> Iterator[Any]:
    """The embedded PostgreSQL."""
    dj_npy.embedded.start(folder)
    yield dj.conn()


@contextmanager
def mysql(folder: Path) -> Iterator[Any]:
    """MySQL."""
    with serving_mysql(folder) as instance:
        yield instance.connection


@contextmanager
def mariadb(folder: Path) -> Iterator[Any]:
    """MariaDB, which else takes no more than 16 MB at once."""
    with serving_mariadb(folder, "--max-allowed-packet=1G") as instance:
        yield instance.connection


SERVERS = {"PostgreSQL": postgresql, "MySQL": mysql, "MariaDB": mariadb}
