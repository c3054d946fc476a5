"""Stores at a distance: every answer begins after a delay, every connection has a limited rate."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datajoint.builtin_codecs.npy import NpyCodec as BuiltinNpyCodec

import dj_npy
from benchmarks._measure import RUN, Timings, cost, row, side_by_side
from benchmarks.parts import reference
from benchmarks.remote import Codec, s3
from tests.support.servers import BUCKET, free_port, started

MEGABYTES, COLUMNS, FILES, FILE_ROWS = 256, 32, 300, 100
ROWS = (MEGABYTES << 17) // COLUMNS
WIDTHS = (8, 32, 64)
GAPS = (0, 128 << 10, 1 << 20)
NGINX = """
load_module modules/ndk_http_module.so;
load_module modules/ngx_http_lua_module.so;
worker_processes 2; daemon off; error_log stderr crit; pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; keepalive_requests 1000000;
    server {{ listen 127.0.0.1:{port}; root {folder}; {slowed} }}
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

    @property
    def slowed(self) -> str:
        """The directives of nginx."""
        if not self.rate:
            return ""
        wait = f"access_by_lua_block {{ ngx.sleep({self.delay / 1000}) }}"
        return f"{wait} limit_rate {self.rate:g}m;"


DISTANCES = [Distance(0, 0), Distance(10, 200), Distance(30, 80), Distance(100, 20)]


def main() -> None:
    """Print the tables."""
    folder = Path(tempfile.mkdtemp(prefix="dj-npy-bench-"))
    folder.chmod(0o755)  # nginx reads as another user
    (folder / BUCKET).mkdir()
    try:
        stored = Stored(folder / BUCKET)
        for distance in DISTANCES[2:3] if RUN.quick else DISTANCES:
            print(f"\n| at {distance} | dj-npy, ms | against |\n| --- | --- | --- |")
            with nginx(folder, distance) as url:
                for work in (whole, walk, random_rows, small_files, one_slice):
                    work(distance, stored, url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Stored:
    """A large array and many small ones, as our codec and others write them."""

    def __init__(self, bucket: Path) -> None:
        import zarr

        self.bucket = bucket
        self.array = np.random.default_rng(0).standard_normal((ROWS, COLUMNS))
        local = {"protocol": "file", "location": str(bucket)}
        ours, builtin = Codec(dj_npy.NpyCodec(), local), Codec(BuiltinNpyCodec(), local)
        self.large, self.builtin = ours.insert(self.array), builtin.insert(self.array)
        small = self.array[:FILE_ROWS]
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


def client_of(url: str) -> Any:
    from obstore.store import S3Store

    return S3Store(BUCKET, endpoint=url, skip_signature=True, client_options={"allow_http": True})


def on_zarr(url: str) -> Any:
    import zarr
    from zarr.storage import ObjectStore

    return zarr.open_array(ObjectStore(client_of(url), read_only=True), path="zarr", mode="r")


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

    client, ref, builtin = client_of(url), stored.ref(url), stored.ref(url, builtin=True)
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

    contenders: dict[str, Callable[[], Any]] = {
        "dj-npy": lambda: loaded(ref),
        "of the built-in's row": lambda: loaded(builtin),
        "zarr on obstore": lambda: far_zarr[:],
        "TensorStore": lambda: far_tensorstore.read().result(),
        **{f"ranges in {width} threads": partial(bare, width) for width in WIDTHS},
    }
    for run in contenders.values():
        assert np.array_equal(run(), stored.array)
    report(f"load {MEGABYTES} MB, {distance}", contenders, 7)


def walk(distance: Distance, stored: Stored, url: str) -> None:
    ref = stored.ref(url)

    def by_blocks() -> float:
        return sum(float(block.sum()) for block in ref.blocks("16 MiB"))

    contenders = {"dj-npy": by_blocks, "load": lambda: loaded(ref)}
    report(f"blocks of 16 MiB with their sums, {distance}", contenders, 7)


def random_rows(distance: Distance, stored: Stored, url: str) -> None:
    import obstore

    client, ref, builtin = client_of(url), stored.ref(url), stored.ref(url, builtin=True)
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

    contenders: dict[str, Callable[[], Any]] = {
        "dj-npy": lambda: ref[chosen],
        "of the built-in's row": lambda: builtin[chosen],
        "TensorStore": lambda: far_tensorstore[chosen].read().result(),
        **{
            f"{width} threads, gap {gap >> 10} KiB": partial(bare, width, gap)
            for width in WIDTHS
            for gap in GAPS
        },
    }
    for run in contenders.values():
        assert np.array_equal(run(), stored.array[chosen])
    report(f"1,000 random rows, {distance}", contenders, 5)


def small_files(distance: Distance, stored: Stored, url: str) -> None:
    import obstore

    client = client_of(url)
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
    report(f"load {FILES} arrays of 25 kB, {distance}", contenders, 9)


def one_slice(distance: Distance, stored: Stored, url: str) -> None:
    import obstore

    client, ref = client_of(url), stored.ref(url)
    path, offset, nbytes = stored.large["path"], stored.large["offset"], 8 * COLUMNS
    first = iter(np.random.default_rng(3).integers(0, ROWS - 100, 10_000).tolist())

    def one_range() -> Any:
        start = offset + next(first) * nbytes
        return obstore.get_range(client, path, start=start, end=start + 100 * nbytes)

    def rows() -> Any:
        n = next(first)
        return ref[n : n + 100]

    report(f"a slice of 100 rows, {distance}", {"dj-npy": rows, "one request": one_range}, 30)


def report(work: str, contenders: dict[str, Callable[[], Any]], rounds: int) -> None:
    """Time them and print; of a grid, the best."""
    times: Timings = side_by_side(contenders, rounds)
    row(work, times, [cost(times, name, "no goal") for name in times if name != "dj-npy"])


@contextmanager
def nginx(folder: Path, distance: Distance) -> Iterator[str]:
    """A server of the files in `folder` at that distance."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, slowed=distance.slowed))
    command = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    assert command, "apt-get install nginx-light libnginx-mod-http-lua"
    with started([command, "-c", str(config)], port) as url:
        yield url
