"""Parts of an array, from S3 and from a local store, against bare reads and other libraries."""

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from datajoint.builtin_codecs.npy import NpyCodec as BuiltinNpyCodec
from tests.servers import BUCKET

import dj_npy
from benchmarks._measure import Timings, milliseconds, ratio, row, side_by_side
from benchmarks.remote import Codec, nginx, s3

MEGABYTES = 256
COLUMNS = 32
ROWS = (MEGABYTES << 17) // COLUMNS
GAP = 128 << 10


def main() -> None:
    """Print the tables."""
    folder = Path(tempfile.mkdtemp(prefix="dj-npy-bench-"))
    folder.chmod(0o755)  # nginx reads as another user
    (folder / BUCKET).mkdir()
    try:
        array = np.random.default_rng(0).standard_normal((ROWS, COLUMNS))
        local = {"protocol": "file", "location": str(folder / BUCKET)}
        stored = Codec(dj_npy.NpyCodec(), local).insert(array)
        print("\n| part of an array | dj-npy, ms | against |\n| --- | --- | --- |")
        local_slices(stored, local, folder / BUCKET / stored["path"], array)
        with nginx(folder) as url:
            remote_slices(stored, url)
        growth(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
    in_h5 = h5py.File(path.parent / "array.h5", "r")["array"]
    mapped = np.load(path, mmap_mode="r")
    scattered = np.random.default_rng(2).integers(0, ROWS, 1000)
    in_turn = np.sort(scattered)
    columns = [3, 17, 30]
    for work, index, rounds in (
        ("1,000 slices of 100 rows, local", None, 15),
        ("1,000 random rows, local", scattered, 15),
        ("3 of 32 columns, local", np.s_[:, columns], 5),
        ("every 1,000th row, local", np.s_[::1000], 15),
    ):
        cases: dict[str, Any] = {
            "dj-npy": lambda index=index: (
                [ref[n : n + 100] for n in first] if index is None else ref.read(index)
            ),
            "np.memmap": lambda index=index: (
                [np.array(mapped[n : n + 100]) for n in first]
                if index is None
                else np.array(mapped[index])
            ),
        }
        if index is None:
            cases["h5py"] = lambda: [in_h5[n : n + 100] for n in first]
        elif index is scattered:
            cases["h5py, sorted"] = lambda: in_h5[np.unique(in_turn)]
        elif index is not None:
            cases["h5py"] = lambda index=index: in_h5[index]
        times = side_by_side(cases, rounds)
        report(work, times, {"np.memmap": "<= 5x its time", "h5py": ">= 2x faster"})


def remote_slices(stored: Any, url: str) -> None:
    import obstore
    from obstore.store import S3Store

    client = S3Store(BUCKET, endpoint=url, skip_signature=True, client_options={"allow_http": True})
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
        return builtin.load({k: stored[k] for k in ("path", "store", "dtype", "shape")})[
            n : n + 100
        ]

    times = side_by_side({"dj-npy": rows, "one range": one_range, "built-in": whole}, 9)
    many = side_by_side({"dj-npy": rows, "one range": one_range}, 1000)
    report("100 rows, S3", times, {"built-in": ">= 500x faster"})
    report("100 rows, S3", many, {"one range": "<= 2x its time"})

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
    report("1,000 random rows, S3", times, {"merged ranges": "<= 1.5x its time"})


def growth(folder: Path) -> None:
    """How the cost of a slice grows with the array (sparse files)."""
    print("\n| array | 100 rows of it, local, us | S3, us |\n| --- | --- | --- |")
    local = {"protocol": "file", "location": str(folder / BUCKET)}
    refs = {}
    for megabytes in (64, 256, 1024, 6144):
        rows = (megabytes << 17) // COLUMNS
        header = dj_npy._fileformat.header_bytes(np.dtype("f8"), (rows, COLUMNS), False)
        path = f"sparse-{megabytes}.npy"
        with open(folder / BUCKET / path, "wb") as file:
            file.write(header)
            file.truncate(len(header) + (megabytes << 20))
        refs[megabytes] = (
            {"path": path, "store": "main", "dtype": "float64", "shape": [rows, COLUMNS]}
            | {"offset": len(header)},
            rows,
        )
    with nginx(folder) as url:
        cases: dict[str, Any] = {}
        for megabytes, (stored, rows) in refs.items():
            for where, settings in (("local", local), ("S3", s3(url))):
                ref, at = reference(stored, settings), rows - 1000
                cases[f"{where} {megabytes}"] = lambda ref=ref, at=at: ref[at : at + 100]
        times = side_by_side(cases, 200)
    for megabytes in refs:
        local_us, s3_us = (
            float(milliseconds(times, f"{where} {megabytes}")) * 1e3 for where in ("local", "S3")
        )
        print(f"| {megabytes} MB | {local_us:.0f} | {s3_us:.0f} |")


def report(work: str, times: Timings, goals: dict[str, str]) -> None:
    row(
        work,
        times,
        [
            (name, f"{ratio(times, 'dj-npy', name):.2f}x its time", goals.get(name, "-"))
            for name in times
            if name != "dj-npy"
        ],
    )
