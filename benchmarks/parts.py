"""Parts of an array, from S3 and from a local store, against bare reads and other libraries."""

import statistics
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datajoint.builtin_codecs.npy import NpyCodec as BuiltinNpyCodec

import dj_npy
from benchmarks._measure import Timings, cost, facts, faster, row, scratch, side_by_side
from benchmarks.remote import Codec, nginx, s3, s3_client
from tests.support.servers import BUCKET

MEGABYTES = 256
COLUMNS = 32
ROWS = (MEGABYTES << 17) // COLUMNS
GAP = 128 << 10


def main() -> None:
    """Print the tables."""
    with scratch() as folder:
        (folder / BUCKET).mkdir()
        array = np.random.default_rng(0).standard_normal((ROWS, COLUMNS))
        local = {"protocol": "file", "location": str(folder / BUCKET)}
        stored = Codec(dj_npy.NpyCodec(), local).insert(array)
        print(f"| part of {MEGABYTES} MB | dj-npy, ms | against |\n| --- | --- | --- |")
        local_slices(stored, local, folder / BUCKET / stored["path"], array)
        with nginx(folder) as url:
            remote_slices(stored, url)
            one_request(url, folder / BUCKET)


def reference(stored: Any, settings: dict[str, Any]) -> dj_npy.NpyRef:
    codec = dj_npy.NpyCodec()
    return codec.decode(stored, context=Codec(codec, settings).context)


def starts(count: int, seed: int = 1) -> list[int]:
    return [int(n) for n in np.random.default_rng(seed).integers(0, ROWS - 100, count)]


def local_slices(stored: Any, local: dict[str, Any], path: Path, array: Any) -> None:
    import h5py

    with h5py.File(path.parent / "array.h5", "w") as file:
        file["array"] = array
    ref, first = reference(stored, local), starts(1000)
    mapped = np.load(path, mmap_mode="r")
    with h5py.File(path.parent / "array.h5", "r") as file:
        in_h5 = file["array"]
        times = side_by_side(
            {
                "dj-npy": lambda: each_slice(ref, first),
                "np.memmap": lambda: each_slice(mapped, first, np.array),
                "h5py": lambda: each_slice(in_h5, first),
            },
            31,
        )
        report("1,000 slices of 100 rows, local", times, {"np.memmap": "<= 5x", "h5py": "<= 0.5x"})
        whole_each_time(ref, stored, local, first)
        scattered = np.random.default_rng(2).integers(0, ROWS, 1000)
        in_order = np.unique(scattered)
        for work, index, of_h5 in (
            ("1,000 random rows", scattered, in_order),
            ("every 1,000th row", np.s_[::1000], np.s_[::1000]),
            ("3 of 32 columns", np.s_[:, [3, 17, 30]], np.s_[:, [3, 17, 30]]),
            ("half of the columns of half of the rows", np.s_[: ROWS // 2, :16], None),
        ):
            contenders: dict[str, Any] = {
                "dj-npy": partial(ref.read, index),
                "np.memmap, kept": partial(part_of, mapped, index),
                "np.memmap, opened for it": partial(part_of_file, path, index),
                "h5py": partial(part_of, in_h5, index if of_h5 is None else of_h5),
            }
            report(work, side_by_side(contenders, 9), {})


def whole_each_time(ref: Any, stored: Any, local: dict[str, Any], first: list[int]) -> None:
    """The built-in codec loads the array for each slice: 5 are measured, and counted 200 times."""
    builtin = Codec(BuiltinNpyCodec(), local)

    def whole() -> None:
        for n in first[:5]:
            builtin.load(stored)[n : n + 100]

    times = side_by_side({"dj-npy": lambda: each_slice(ref, first), "built-in": whole}, 5)
    times["built-in"] = [seconds * len(first) / 5 for seconds in times["built-in"]]
    row("1,000 slices of 100 rows, local", times, [faster(times, "built-in", ">= 1,000x")])


def each_slice(array: Any, first: list[int], copied: Any = None) -> None:
    if copied is None:
        for n in first:
            array[n : n + 100]
    else:  # a slice of a map has read nothing yet
        for n in first:
            copied(array[n : n + 100])


def part_of(array: Any, index: Any) -> Any:
    return np.array(array[index])


def part_of_file(path: Path, index: Any) -> Any:
    return np.array(np.load(path, mmap_mode="r")[index])


def remote_slices(stored: Any, url: str) -> None:
    import obstore

    client = s3_client(url)
    ref, builtin = reference(stored, s3(url)), Codec(BuiltinNpyCodec(), s3(url))
    path, offset, nbytes = stored["path"], stored["offset"], 8 * COLUMNS
    first = iter(starts(100_000, 3))

    def bare(start: int, stop: int) -> Any:
        return obstore.get_range(client, path, start=start, end=stop)

    def rows() -> Any:
        n = next(first)
        return ref[n : n + 100]

    def one_range() -> Any:
        n = next(first)
        data = bare(offset + n * nbytes, offset + (n + 100) * nbytes)
        return np.frombuffer(data, "f8").reshape(100, COLUMNS)

    def whole() -> Any:
        n = next(first)
        return builtin.load(stored)[n : n + 100]

    times = side_by_side({"dj-npy": rows, "built-in": whole}, 9)
    row("100 rows, S3", times, [faster(times, "built-in", ">= 500x")])
    times = side_by_side({"dj-npy": rows, "one range": one_range}, 500)
    report("100 rows, S3", times, {"one range": "<= 2x"})

    chosen = np.random.default_rng(4).integers(0, ROWS, 1000)

    def merged() -> Any:
        out = np.empty((len(chosen), COLUMNS))
        order = np.argsort(chosen)
        at = chosen[order]
        groups = np.split(
            np.arange(len(at)), np.flatnonzero(np.diff(at) * nbytes - nbytes > GAP) + 1
        )

        def fetch(group: Any) -> None:
            low, high = int(at[group[0]]), int(at[group[-1]]) + 1
            data = bare(offset + low * nbytes, offset + high * nbytes)
            found = np.frombuffer(data, "f8").reshape(-1, COLUMNS)
            out[order[group]] = found[at[group] - low]

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fetch, groups))
        return out

    assert np.array_equal(merged(), ref[chosen])
    times = side_by_side({"dj-npy": lambda: ref[chosen], "merged ranges": merged}, 15)
    report("1,000 random rows, S3", times, {"merged ranges": "<= 1.5x"})


def one_request(url: str, bucket: Path) -> None:
    """What a request costs by its length: the reason for the thresholds."""
    import obstore

    client = s3_client(url)
    with (bucket / "bytes").open("wb") as file:
        file.truncate(64 << 20)
    lengths = [4 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20, 8 << 20]
    at = iter(np.random.default_rng(5).integers(0, 50 << 20, 10_000))

    def get(length: int) -> Any:
        return obstore.get_range(client, "bytes", start=int(next(at)), length=length)

    times = side_by_side({str(length): partial(get, length) for length in lengths}, 50)
    facts(
        "one request of obstore to nginx, after others",
        {
            f"{int(name) >> 10} KiB": f"{statistics.median(found) * 1e6:.0f} us"
            for name, found in times.items()
        },
    )


def report(work: str, times: Timings, goals: dict[str, str]) -> None:
    others = [name for name in times if name != "dj-npy"]
    row(work, times, [cost(times, name, goals.get(name, "no goal")) for name in others])
