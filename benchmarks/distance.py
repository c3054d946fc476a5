"""Stores at a distance: every answer begins after a delay, every connection has a limited rate."""

import asyncio
import statistics
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datajoint as dj
import numpy as np
from datajoint.builtin_codecs.npy import NpyCodec as BuiltinNpyCodec

import dj_npy
from benchmarks._measure import RUN, Timings, cost, row, scratch, side_by_side
from benchmarks._recordings import ARRAY, recordings
from benchmarks.parts import reference
from benchmarks.remote import Codec, nginx, s3, s3_client
from tests.support.servers import BUCKET, s3_settings, seaweedfs

MEGABYTES, COLUMNS, FILES, FEW = 256, 32, 300, 60
ROWS = (MEGABYTES << 17) // COLUMNS
WIDTHS = (8, 32, 64)
GAPS = (0, 128 << 10, 1 << 20)
PATIENCE_MS = 30
"""Up to this delay, what has eight requests in flight for 1,000 rows is measured, too."""
Contenders = dict[str, Callable[[], Any]]
MODULES = """
load_module modules/ndk_http_module.so;
load_module modules/ngx_http_lua_module.so;
"""
BEFORE = """
location / {{
    proxy_pass {url}; proxy_http_version 1.1; client_max_body_size 0;
    proxy_set_header Host $http_host; proxy_set_header Connection "";
}}
"""


class Distance(NamedTuple):
    """How far a store is away."""

    delay: float
    """Milliseconds until the first byte of an answer."""
    rate: float
    """MB/s of a connection; 0 is unlimited."""

    def __str__(self) -> str:
        return f"{self.delay:g} ms, {self.rate:g} MB/s" if self.rate else "no distance"

    def goals(self, goals: dict[str, str]) -> dict[str, str]:
        """What is to be reached at a distance; nothing at none."""
        return goals if self.rate else dict.fromkeys(goals, "no goal")

    @contextmanager
    def server(self, folder: Path, before: str = "") -> Iterator[str]:
        """Yield the address of the files in `folder`, or of another server, so far away."""
        more = BEFORE.format(url=before) if before else ""
        if self.rate:
            more += f"access_by_lua_block {{ ngx.sleep({self.delay / 1000}) }} "
            more += f"limit_rate {self.rate:g}m;"
        with nginx(folder, MODULES, more) as url:
            yield url


DISTANCES = [Distance(0, 0), Distance(10, 200), Distance(30, 80), Distance(100, 20)]


def main() -> None:
    """Print the tables."""
    with scratch() as folder:
        (folder / BUCKET).mkdir()
        dj.logger.setLevel("ERROR")
        stored = Stored(folder / BUCKET)
        dj_npy.embedded.start(folder / "embedded")
        with seaweedfs(folder / "seaweedfs") as store:
            for distance in DISTANCES[2:3] if RUN.quick else DISTANCES:
                print(f"\n| at {distance} | dj-npy, ms | against |\n| --- | --- | --- |")
                with distance.server(folder) as url:
                    for work in (whole, walk, random_rows, small_files, one_slice):
                        work(distance, stored, url)
                with distance.server(folder, before=store) as url:
                    inserts(distance, url)


class Stored:
    """A large array and many small ones, as our codec and others write them."""

    def __init__(self, bucket: Path) -> None:
        import zarr

        self.bucket = bucket
        self.array = np.random.default_rng(0).standard_normal((ROWS, COLUMNS))
        local = {"protocol": "file", "location": str(bucket)}
        ours, builtin = Codec(dj_npy.NpyCodec(), local), Codec(BuiltinNpyCodec(), local)
        self.large, self.builtin = ours.insert(self.array), builtin.insert(self.array)
        small = ARRAY
        self.small = [ours.insert(small) for _ in range(FILES)]
        self.small_builtin = [builtin.insert(small) for _ in range(FILES)]
        rows = (8 << 20) // (8 * COLUMNS)
        zarr.create_array(
            bucket / "zarr",
            shape=self.array.shape,
            chunks=(rows, COLUMNS),
            dtype="f8",
            compressors=None,
        )[:] = self.array

    def refs(self, url: str, builtin: bool = False) -> list[dj_npy.NpyRef]:
        return [
            reference(each, s3(url)) for each in (self.small_builtin if builtin else self.small)
        ]

    def ref(self, url: str, builtin: bool = False) -> dj_npy.NpyRef:
        return reference(self.builtin if builtin else self.large, s3(url))


def on_zarr(url: str) -> Any:
    import zarr
    from zarr.storage import ObjectStore

    return zarr.open_array(ObjectStore(s3_client(url), read_only=True), path="zarr", mode="r")


def on_tensorstore(url: str) -> Any:
    import tensorstore

    kvstore = {"driver": "http", "base_url": f"{url}/{BUCKET}/zarr/"}
    return tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result()


def loaded(ref: dj_npy.NpyRef) -> Any:
    array = ref.load()
    ref.unload()
    return array


def whole(distance: Distance, stored: Stored, url: str) -> None:
    import obstore

    client, ref, builtin = s3_client(url), stored.ref(url), stored.ref(url, builtin=True)
    far_zarr, far_tensorstore = on_zarr(url), on_tensorstore(url)
    path, offset, nbytes = stored.large["path"], stored.large["offset"], stored.array.nbytes

    def bare(width: int) -> Any:
        out = np.empty((ROWS, COLUMNS))
        view, part = out.reshape(-1).view(np.uint8), nbytes // max(width, 32)

        def fetch(start: int) -> None:
            stop = min(start + part, nbytes)
            data = obstore.get_range(client, path, start=offset + start, end=offset + stop)
            view[start:stop] = np.frombuffer(memoryview(data), np.uint8)

        with ThreadPoolExecutor(width) as pool:
            list(pool.map(fetch, range(0, nbytes, part)))
        return out

    contenders: Contenders = {
        "dj-npy": lambda: loaded(ref),
        "of the built-in's row": lambda: loaded(builtin),
        "zarr on obstore": lambda: far_zarr[:],
        "TensorStore": lambda: far_tensorstore.read().result(),
        **{f"ranges in {width} threads": partial(bare, width) for width in WIDTHS},
    }
    for run in contenders.values():
        assert np.array_equal(run(), stored.array)
    goals = {"the best": "<= 1.15x", "TensorStore": "<= 1x", "zarr on obstore": "<= 0.7x"}
    report(f"load {MEGABYTES} MB, {distance}", contenders, 7, distance.goals(goals), "threads")


def walk(distance: Distance, stored: Stored, url: str) -> None:
    ref = stored.ref(url)

    def by_blocks() -> float:
        return sum(float(block.sum()) for block in ref.blocks("16 MiB"))

    contenders = {"dj-npy": by_blocks, "load": lambda: loaded(ref)}
    goals = distance.goals({"load": "<= 1.5x"})
    report(f"blocks of 16 MiB with their sums, {distance}", contenders, 7, goals)


def random_rows(distance: Distance, stored: Stored, url: str) -> None:
    import obstore

    client, ref, builtin = s3_client(url), stored.ref(url), stored.ref(url, builtin=True)
    far_tensorstore = on_tensorstore(url)
    path, offset, nbytes = stored.large["path"], stored.large["offset"], 8 * COLUMNS
    chosen = np.random.default_rng(4).integers(0, ROWS, 1000)

    def bare(width: int, gap: int) -> Any:
        out = np.empty((len(chosen), COLUMNS))
        order = np.argsort(chosen)
        at = chosen[order]
        breaks = np.flatnonzero(np.diff(at) * nbytes - nbytes > gap) + 1
        groups = np.split(np.arange(len(at)), breaks)

        def fetch(group: Any) -> None:
            low, high = int(at[group[0]]), int(at[group[-1]]) + 1
            start, stop = offset + low * nbytes, offset + high * nbytes
            data: Any = obstore.get_range(client, path, start=start, end=stop)
            found = np.frombuffer(data, "f8").reshape(-1, COLUMNS)
            out[order[group]] = found[at[group] - low]

        with ThreadPoolExecutor(width) as pool:
            list(pool.map(fetch, groups))
        return out

    contenders: Contenders = {
        "dj-npy": lambda: ref[chosen],
        "of the built-in's row": lambda: builtin[chosen],
        "TensorStore": lambda: far_tensorstore[chosen].read().result(),
        **{
            f"{width} threads, gap {gap >> 10} KiB": partial(bare, width, gap)
            for width in (WIDTHS if distance.delay <= PATIENCE_MS else WIDTHS[1:])
            for gap in GAPS
        },
    }
    for run in contenders.values():
        assert np.array_equal(run(), stored.array[chosen])
    goals = distance.goals({"the best": "<= 1.3x", "TensorStore": "<= 1x"})
    report(f"1,000 random rows, {distance}", contenders, 3, goals, "threads")


def small_files(distance: Distance, stored: Stored, url: str) -> None:
    import obstore

    client = s3_client(url)
    refs, builtin = stored.refs(url), stored.refs(url, builtin=True)
    paths = [each["path"] for each in stored.small]

    def all_at_once() -> Any:
        async def get(path: str) -> Any:
            return await (await obstore.get_async(client, path)).bytes_async()

        async def every() -> Any:
            return await asyncio.gather(*map(get, paths))

        return asyncio.run(every())

    def ours(of: list[dj_npy.NpyRef]) -> Any:
        arrays = dj_npy.load(of)
        for ref in of:
            ref.unload()
        return arrays

    contenders = {
        "dj-npy": lambda: ours(refs),
        "of the built-in's rows": lambda: ours(builtin),
        "obstore, all at once": all_at_once,
    }
    goals = distance.goals({"obstore, all at once": "<= 1.8x"})
    report(f"load {FILES} arrays of 25 kB, {distance}", contenders, 9, goals)


def one_slice(distance: Distance, stored: Stored, url: str) -> None:
    import obstore

    client, ref = s3_client(url), stored.ref(url)
    path, offset, nbytes = stored.large["path"], stored.large["offset"], 8 * COLUMNS
    first = iter(np.random.default_rng(3).integers(0, ROWS - 100, 10_000).tolist())

    def one_range() -> Any:
        start = offset + next(first) * nbytes
        return obstore.get_range(client, path, start=start, end=start + 100 * nbytes)

    def rows() -> Any:
        n = next(first)
        return ref[n : n + 100]

    contenders = {"dj-npy": rows, "one request": one_range}
    goals = distance.goals({"one request": "<= 1.1x"})
    report(f"a slice of 100 rows, {distance}", contenders, 30, goals)


def inserts(distance: Distance, url: str) -> None:
    """Through the proxy into SeaweedFS, against the same PUTs sent all at once."""
    import obstore

    client = s3_client(url, signed=True)
    file = bytes(128) + ARRAY.tobytes()

    def all_at_once() -> None:
        async def every() -> None:
            names = [f"bare/{uuid.uuid4().hex}" for _ in range(FILES)]
            await asyncio.gather(*(obstore.put_async(client, name, file) for name in names))

        asyncio.run(every())

    with recordings(s3_settings(url, location=uuid.uuid4().hex)) as of:
        contenders: Contenders = {
            "dj-npy": lambda: dj_npy.insert(of.table, of.rows(FILES)),
            "obstore, all PUTs at once": all_at_once,
            "our Table.insert": lambda: of.insert(FILES),
        }
        goals = distance.goals({"obstore, all PUTs at once": "<= 1.8x"})
        report(f"insert {FILES} arrays of 25 kB, {distance}", contenders, 7, goals)
        contenders = {
            "dj-npy": lambda: of.insert(FEW),
            "built-in": lambda: of.insert_builtin(FEW),
        }
        report(f"`Table.insert` of {FEW}, {distance}", contenders, 3, {"built-in": "<= 1x"})


def report(
    work: str,
    contenders: Contenders,
    rounds: int,
    goals: dict[str, str],
    grid: str = "",
) -> None:
    """Time them and print. Of those whose names contain `grid`, the best is `the best`."""
    times: Timings = side_by_side(contenders, rounds)
    of_grid = [name for name in times if grid and grid in name]
    if of_grid:
        best = min(of_grid, key=lambda name: statistics.median(times[name]))
        title = f"the best of a grid: {best}"
        times[title], goals = times[best], {**goals, title: goals["the best"]}
    names = [name for name in times if name != "dj-npy" and name not in of_grid]
    row(work, times, [cost(times, name, goals.get(name, "no goal")) for name in names])
