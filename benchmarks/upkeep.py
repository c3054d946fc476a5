"""`verify` and `collect` of many rows in S3, 30 ms away."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import datajoint as dj
import numpy as np
import obstore

import dj_npy
from benchmarks._measure import RUN, cost, peak_memory, row, scratch
from benchmarks._recordings import recordings
from benchmarks.distance import Distance
from benchmarks.memory import report as report_memory
from benchmarks.remote import s3_client
from dj_npy._format.npyfile import header_bytes
from tests.support.servers import s3_settings, seaweedfs

ROWS = int(os.environ.get("DJ_NPY_BENCH_ROWS", 100_000))
AT_ONCE = 64
LOCATION = "upkeep"
PATH = "bench_insert/recording/id={}/waveform.npy"
DISTANCE = Distance(30, 80)
ARRAY = np.zeros(1)
HEADER = header_bytes(ARRAY.dtype, ARRAY.shape, False)


def main() -> None:
    """Print the tables."""
    rows = min(ROWS, 5_000) if RUN.quick else ROWS
    with scratch() as folder:
        dj.logger.setLevel("ERROR")
        dj_npy.embedded.start(folder / "embedded")
        with seaweedfs(folder / "seaweedfs") as store:
            asyncio.run(put(s3_client(store, signed=True), rows))
            with (
                DISTANCE.server(folder, before=store) as url,
                recordings(s3_settings(url, location=LOCATION)) as of,
            ):
                insert(of.table, rows)
                upkeep(of.table, s3_client(url, signed=True), rows)


async def put(client: Any, rows: int) -> None:
    """Write the files."""
    numbers = iter(range(rows))

    async def some() -> None:
        for number in numbers:
            key = f"{LOCATION}/{PATH.format(number)}"
            await obstore.put_async(client, key, HEADER + ARRAY.tobytes(), use_multipart=False)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))


def insert(table: Any, rows: int) -> None:
    """As `dj_npy.insert` would, but in one statement."""
    described = {
        "store": "bench",
        "dtype": "<f8",
        "shape": list(ARRAY.shape),
        "offset": len(HEADER),
        "checksum": "xxh3-128:" + "0" * 32,
    }
    path = "'" + PATH.format("' || n || '") + "'"
    table.connection.query(
        f"INSERT INTO {table.full_table_name} (id, waveform) "
        f"SELECT n, jsonb_build_object('path', {path}) || '{json.dumps(described)}'::jsonb "
        f"FROM generate_series(0, {rows - 1}) n"
    )


def upkeep(table: Any, client: Any, rows: int) -> None:
    """Each once, as a million rows take minutes."""

    def listing() -> None:
        listed = obstore.list(client, prefix=LOCATION, chunk_size=1000)
        assert sum(map(len, listed)) == rows

    def verify() -> None:
        report = dj_npy.verify(table)
        assert report.ok
        assert report.counts["size as described"] > 0.99 * rows, report.counts

    def collect(dry_run: bool) -> None:
        found = dj_npy.collect(table.database, older_than=timedelta(0), dry_run=dry_run)
        assert (found.live, found.counts) == (rows, {}), found

    seconds, _ = measured(listing)
    works: dict[str, Callable[[], None]] = {
        "verify": verify,
        "collect, a dry run,": partial(collect, True),
        "collect, to remove,": partial(collect, False),
    }
    for work, call in works.items():
        title = f"{work} of {rows:,} rows, {DISTANCE}"
        ours, nbytes = measured(call)
        times = {"dj-npy": [ours], "one listing": [seconds]}
        row(title, times, [cost(times, "one listing", "no goal")])
        report_memory(title, {"dj-npy": nbytes}, "no goal")


def measured(call: Callable[[], None]) -> tuple[float, int]:
    """Return seconds, and the bytes by which memory rose at most."""
    with peak_memory() as peak:
        began = time.perf_counter()
        call()
        seconds = time.perf_counter() - began
    return seconds, peak[0]
