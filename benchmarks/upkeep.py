"""`verify` and `collect` of many rows in S3, 30 ms away."""

import asyncio
import json
import os
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import obstore

import dj_npy
from benchmarks._measure import RUN, cost, peak_memory, row, side_by_side
from benchmarks._recordings import recordings
from benchmarks.distance import Distance
from benchmarks.memory import report as report_memory
from benchmarks.remote import s3_client
from dj_npy._format.npyfile import header_bytes
from tests.support.servers import s3_settings, seaweedfs

ROWS = int(os.environ.get("DJ_NPY_BENCH_ROWS", 100_000))
AT_ONCE = 64
LOCATION = "upkeep"
DISTANCE = Distance(30, 80)
ARRAY = np.zeros(1)


def main() -> None:
    """Print the tables."""
    rows = min(ROWS, 5_000) if RUN.quick else ROWS
    folder = Path(tempfile.mkdtemp(prefix="dj-npy-bench-"))
    dj.logger.setLevel("ERROR")
    try:
        dj_npy.embedded.start(folder / "embedded")
        with seaweedfs(folder / "seaweedfs") as store:
            paths = asyncio.run(put(s3_client(store, signed=True), rows))
            with (
                DISTANCE.server(folder, before=store) as url,
                recordings(s3_settings(url, location=LOCATION)) as of,
            ):
                insert(of.table, paths, rows)
                upkeep(of.table, s3_client(url, signed=True), rows)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def path_of(number: int) -> str:
    return f"bench_insert/recording/id={number}/waveform.npy"


async def put(client: Any, rows: int) -> str:
    """Write the files; return what a row of PostgreSQL's must do to get its path."""
    file = header_bytes(ARRAY.dtype, ARRAY.shape, False) + ARRAY.tobytes()
    numbers = iter(range(rows))

    async def some() -> None:
        for number in numbers:
            key = f"{LOCATION}/{path_of(number)}"
            await obstore.put_async(client, key, file, use_multipart=False)

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    before, after = path_of(0).split("0")
    return f"'{before}' || n || '{after}'"


def insert(table: Any, path: str, rows: int) -> None:
    """As `dj_npy.insert` would, but in one statement."""
    header = header_bytes(ARRAY.dtype, ARRAY.shape, False)
    described = {
        "store": "bench",
        "dtype": "<f8",
        "shape": list(ARRAY.shape),
        "offset": len(header),
        "checksum": "xxh3-128:" + "0" * 32,
    }
    table.connection.query(
        f"INSERT INTO {table.full_table_name} (id, waveform) "
        f"SELECT n, jsonb_build_object('path', {path}) || '{json.dumps(described)}'::jsonb "
        f"FROM generate_series(0, {rows - 1}) n"
    )


def upkeep(table: Any, client: Any, rows: int) -> None:
    def verify() -> None:
        report = dj_npy.verify(table)
        assert report.ok
        assert report.counts["size as described"] > 0.99 * rows, report.counts

    def collect() -> None:
        found = dj_npy.collect(table.database, older_than=timedelta(0))
        assert (found.live, found.counts) == (rows, {}), found

    def listing() -> None:
        listed = obstore.list(client, prefix=LOCATION, chunk_size=1000)
        assert sum(map(len, listed)) == rows

    for name, work in {"verify": verify, "collect": collect}.items():
        title = f"{name} of {rows:,} rows, {DISTANCE}"
        with peak_memory() as peak:
            times = side_by_side({"dj-npy": work, "one listing": listing}, 1)
        row(title, times, [cost(times, "one listing", "no goal")])
        report_memory(title, {"dj-npy": peak[0]}, "no goal")
