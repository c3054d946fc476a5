"""How cost grows: with the array, with the rows of a fetch, with the workers."""

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import datajoint as dj
import numpy as np
from datajoint.builtin_codecs.npy import NpyCodec as BuiltinNpyCodec

import dj_npy
from benchmarks._measure import RUN, Timings, cost, rounded, row, side_by_side
from benchmarks._recordings import ARRAY, as_datajoint_ships, recordings
from benchmarks.many import ON_S3, BareCodec
from benchmarks.remote import Codec, nginx, s3, s3_client
from dj_npy._format.npyfile import header_bytes
from tests.conftest import serving_mysql
from tests.support.servers import BUCKET, rclone

MEGABYTES = (1, 4, 16, 64, 256, 1024, 6144)
BUILTIN_UP_TO_MB = {"local store": 1024, "S3 (nginx)": 256}  # in a quick run, 64
ROWS = (100, 1_000, 10_000, 100_000)
WORKERS = (1, 2, 4, 8, 16, 32)
COLUMNS = 32
Contenders = dict[str, Callable[[], Any]]


class Growth:
    """Seconds by what grows; prints each point, and keeps all of them at the end."""

    def __init__(self, chart: str, panel: str, grows: str) -> None:
        self._about = {"chart": chart, "panel": panel, "grows": grows}
        self._points: dict[str, list[tuple[int, list[float]]]] = {}
        print(f"\n| {panel}: {grows} | ms |\n| --- | --- |")

    def at(self, x: int, contenders: Contenders, rounds: int) -> Timings:
        times = side_by_side(contenders, rounds)
        for name, seconds in times.items():
            self._points.setdefault(name, []).append((x, rounded(seconds)))
        told = ", ".join(f"{name} {median(found) * 1e3:.3g}" for name, found in times.items())
        print(f"| {x} | {told} |", flush=True)
        return times

    def keep(self) -> None:
        RUN.add("growth", **self._about, points=self._points)


def main() -> None:
    """Print the tables."""
    folder = Path(tempfile.mkdtemp(prefix="dj-npy-bench-"))
    folder.chmod(0o755)  # nginx reads as another user
    (folder / BUCKET).mkdir()
    try:
        with nginx(folder) as url:
            slices(folder / BUCKET, url)
            loads(folder / BUCKET, url)
        dj.logger.setLevel("ERROR")
        dj_npy.embedded.start(folder / "embedded")
        fetches("psycopg2", dj)
        with serving_mysql(folder / "mysql") as instance:
            stores = {"default": "main", "main": {"protocol": "file", "location": str(folder)}}
            instance.config.stores, instance.config.safemode = stores, False
            fetches("PyMySQL", instance)
        with rclone(folder / "rclone") as url:
            inserts(url)
    finally:
        # The server stops at exit; its folder goes with the run's.
        shutil.rmtree(folder / BUCKET, ignore_errors=True)


def slices(bucket: Path, url: str) -> None:
    """100 rows from the middle of sparse files; whatever reads them opens them for it."""
    client = s3_client(url)
    for where, settings in (
        ("local store", {"protocol": "file", "location": str(bucket)}),
        ("S3 (nginx)", s3(url)),
    ):
        ours, builtin = Codec(dj_npy.NpyCodec(), settings), Codec(BuiltinNpyCodec(), settings)
        grown = Growth("slices", f"100 rows, {where}", "size of the array, MB")
        for megabytes in MEGABYTES:
            row = sparse(bucket, megabytes)
            first = row["shape"][0] // 2
            path, at = row["path"], row["offset"] + first * 8 * COLUMNS

            def slice_of(load: Callable[[Any], Any], row: Any = row, first: int = first) -> Any:
                return np.array(load(row)[first : first + 100])

            contenders: Contenders = {"dj-npy": partial(slice_of, ours.fetch)}
            if where == "local store":
                contenders["np.memmap"] = partial(slice_of, partial(mapped, bucket))
                hdf5 = sparse_hdf5(bucket / f"{path}.h5", row["shape"])
                contenders["h5py"] = partial(part_of_hdf5, hdf5, first)
            else:
                contenders["bare range"] = partial(one_range, client, path, at)
            grown.at(megabytes, contenders, 50)
            if megabytes <= (64 if RUN.quick else BUILTIN_UP_TO_MB[where]):
                grown.at(megabytes, {"built-in": partial(slice_of, builtin.load)}, 3)
        grown.keep()


def mapped(bucket: Path, row: dict[str, Any]) -> Any:
    return np.load(bucket / row["path"], mmap_mode="r")


def sparse(bucket: Path, megabytes: int) -> dict[str, Any]:
    """A file of zeros that takes no space, and its row."""
    shape = ((megabytes << 17) // COLUMNS, COLUMNS)
    header = header_bytes(np.dtype("f8"), shape, False)
    path = f"sparse-{megabytes}.npy"
    with open(bucket / path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + (megabytes << 20))
    row = {"path": path, "store": "main", "dtype": "float64", "shape": list(shape)}
    return {**row, "offset": len(header)}


def sparse_hdf5(path: Path, shape: list[int]) -> Path:
    """The same as a contiguous dataset whose place in the file is there, but never filled."""
    import h5py

    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple(tuple(shape))
        h5py.h5d.create(file.id, b"array", h5py.h5t.IEEE_F64LE, space, properties)
    return path


def part_of_hdf5(path: Path, first: int) -> Any:
    import h5py

    with h5py.File(path, "r") as file:
        return file["array"][first : first + 100]


def one_range(client: Any, path: str, start: int) -> Any:
    import obstore

    data: Any = obstore.get_range(client, path, start=start, length=100 * 8 * COLUMNS)
    return np.frombuffer(data, "f8").reshape(100, COLUMNS)


def loads(bucket: Path, url: str) -> None:
    import obstore

    on_disk = {"protocol": "file", "location": str(bucket)}
    stored = [Codec(dj_npy.NpyCodec(), on_disk, n).insert(ARRAY) for n in range(ON_S3)]
    ours, builtin = Codec(dj_npy.NpyCodec(), s3(url)), Codec(BuiltinNpyCodec(), s3(url))
    client = s3_client(url)

    def bare(workers: int) -> Any:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(lambda row: obstore.get(client, row["path"]).bytes(), stored))

    def load(workers: int) -> Any:
        return dj_npy.load(map(ours.fetch, stored), max_workers=workers)

    grown = Growth("workers", f"load of {ON_S3} arrays of 25 kB from S3 (nginx)", "workers")
    for workers in WORKERS:
        contenders: Contenders = {
            "dj-npy": partial(load, workers),
            "bare threads": partial(bare, workers),
        }
        if workers == 1:
            contenders["built-in"] = lambda: list(map(builtin.load, stored))
        grown.at(workers, contenders, 9)
    grown.keep()


def fetches(driver: str, database: Any) -> None:
    """Up to 100,000 rows as DataJoint returns them, and as text by the driver alone."""
    schema = database.Schema("bench_growth")

    @schema
    class Recording(dj.Manual):
        definition = "id : int32\n---\nwaveform : <npy@>"

    connection, table = schema.connection, Recording.full_table_name
    Recording.insert1({"id": 0, "waveform": np.zeros((1000, 32))})
    # The rows share one file, as those of an INSERT ... SELECT do: no file is opened anyway.
    digit = f"({' UNION ALL '.join(f'SELECT {n} AS digit' for n in range(10))})"
    places = [f"{digit} AS d{n}" for n in range(len(str(max(ROWS) - 1)))]
    number = " + ".join(f"{10**n} * d{n}.digit" for n in range(len(places)))
    connection.query(
        f"INSERT INTO {table} (id, waveform) SELECT {number}, waveform "
        f"FROM {table}, {', '.join(places)} WHERE {number} > 0"
    )
    builtin, bare = BuiltinNpyCodec(), BareCodec()
    waveform = "CAST(waveform AS text)" if driver == "psycopg2" else "waveform"

    def to_dicts(rows: int, codec: Any = None) -> Any:
        some = Recording().restrict(f"id < {rows}")
        if codec is None:
            return some.to_dicts()
        with as_datajoint_ships(codec):
            return some.to_dicts()

    def as_text(rows: int) -> Any:
        with connection._conn.cursor() as cursor:
            cursor.execute(f"SELECT id, {waveform} FROM {table} WHERE id < {rows}")
            return cursor.fetchall()

    text = f"{driver}, as text"
    grown = Growth("fetches", f"to_dicts, {connection.adapter.backend}", "rows")
    for rows in ROWS[:-1] if RUN.quick else ROWS:
        contenders: Contenders = {
            "dj-npy": partial(to_dicts, rows),
            "built-in": partial(to_dicts, rows, builtin),
            "bare JSON": partial(to_dicts, rows, bare),
            text: partial(as_text, rows),
        }
        times = grown.at(rows, contenders, 3 if rows == max(ROWS) else 9)
    grown.keep()
    work = f"`to_dicts` of {rows:,} rows, {connection.adapter.backend}"
    row(work, times, [cost(times, text, "<= 6x")])
    schema.drop(prompt=False)


def inserts(url: str) -> None:
    import obstore

    numbers = iter(range(1_000_000_000))
    contents = header_bytes(ARRAY.dtype, ARRAY.shape, False) + ARRAY.tobytes()
    client = s3_client(url, signed=True)

    def bare(workers: int) -> None:
        def put(name: int) -> None:
            obstore.put(client, f"bare/{name}", contents)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(put, [next(numbers) for _ in range(ON_S3)]))

    grown = Growth("workers", f"insert of {ON_S3} arrays of 25 kB into S3 (rclone)", "workers")
    with recordings(s3(url)) as of:

        def insert(workers: int) -> None:
            dj_npy.insert(of.table, of.rows(ON_S3), max_workers=workers)

        for workers in WORKERS:
            contenders: Contenders = {
                "dj-npy": partial(insert, workers),
                "bare threads": partial(bare, workers),
            }
            if workers == 1:
                contenders["built-in"] = partial(of.insert_builtin, ON_S3)
            grown.at(workers, contenders, 5)
    grown.keep()
