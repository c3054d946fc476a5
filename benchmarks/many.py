"""Many arrays at once against the built-in codec, and against the bare calls."""

import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
from datajoint.builtin_codecs.npy import NpyCodec as BuiltinNpyCodec

import dj_npy
from benchmarks._measure import cost, faster, peak_memory, row, scratch, side_by_side
from benchmarks._recordings import ARRAY, as_datajoint_ships, recordings
from benchmarks.remote import Codec, nginx, s3, s3_client
from dj_npy._stores import Store
from tests.support.servers import BUCKET, moto, rclone, seaweedfs

ON_S3, LOCAL, ROWS = 300, 2000, 10_000


def main() -> None:
    """Print the tables."""
    with scratch() as folder:
        (folder / BUCKET).mkdir()
        dj.logger.setLevel("ERROR")
        dj_npy.embedded.start(folder / "embedded")
        print("| work | dj-npy, ms | against |\n| --- | --- | --- |")
        local_loads(folder / "local")
        with nginx(folder) as url:
            s3_loads(folder / BUCKET, url)
        fetches()
        with seaweedfs(folder / "seaweedfs") as url:
            inserts("S3 (SeaweedFS)", s3(url), url)
        for name, server in (("rclone", rclone(folder / "rclone")), ("moto", moto())):
            with server as url:
                inserts(f"S3 ({name})", s3(url))
        local = folder / "inserted"
        local.mkdir()
        inserts("a local store", {"protocol": "file", "location": str(local)})
        streams(folder / "stream")


def local_loads(folder: Path) -> None:
    folder.mkdir()
    settings = {"protocol": "file", "location": str(folder)}
    ours, builtin = Codec(dj_npy.NpyCodec(), settings), Codec(BuiltinNpyCodec(), settings)
    dj_npy.settings.fsync = False
    stored = [ours.insert(ARRAY) for _ in range(LOCAL)]
    stored_builtin = [builtin.insert(ARRAY) for _ in range(LOCAL)]
    dj_npy.settings.fsync = True

    def bare() -> Any:
        found = []
        for metadata in stored:
            with open(folder / metadata["path"], "rb", buffering=0) as file:
                found.append(file.read())
        return found

    times = side_by_side(
        {
            "dj-npy": lambda: dj_npy.load(map(ours.fetch, stored)),
            "built-in": lambda: list(map(builtin.load, stored_builtin)),
            "open + read": bare,
            "load() of each": lambda: list(map(ours.load, stored)),
        },
        15,
    )
    row(
        f"`load` of {LOCAL:,} local arrays of 25 kB",
        times,
        [
            faster(times, "built-in", ">= 4x"),
            cost(times, "open + read", "<= 2x"),
            cost(times, "load() of each", "no goal"),
        ],
    )


def s3_loads(bucket: Path, url: str) -> None:
    import obstore

    on_disk = {"protocol": "file", "location": str(bucket)}
    stored = [Codec(dj_npy.NpyCodec(), on_disk, n).insert(ARRAY) for n in range(ON_S3)]
    ours, builtin = Codec(dj_npy.NpyCodec(), s3(url)), Codec(BuiltinNpyCodec(), s3(url))
    client = s3_client(url)

    def bare() -> Any:
        def get(metadata: Any) -> Any:
            return obstore.get(client, metadata["path"]).bytes()

        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(get, stored))

    times = side_by_side(
        {
            "dj-npy": lambda: dj_npy.load(map(ours.fetch, stored)),
            "built-in": lambda: list(map(builtin.load, stored)),
            "obstore's get in 16 bare threads": bare,
        },
        15,
    )
    row(
        f"`load` of {ON_S3} arrays of 25 kB from S3 (nginx)",
        times,
        [
            faster(times, "built-in", ">= 20x"),
            cost(times, "obstore's get in 16 bare threads", "<= 1.5x"),
        ],
    )


class BareCodec(dj.SchemaCodec, register=False):  # type: ignore[call-arg]
    """Hands out the JSON as it is: what DataJoint itself takes for a row."""

    name = "npy"

    def encode(self, value: Any, *, key: Any = None, context: Any = None) -> Any:
        """Not used."""
        raise NotImplementedError

    def decode(self, stored: Any, *, key: Any = None, context: Any = None) -> Any:  # noqa: ARG002
        """Return the JSON."""
        return stored


def fetches() -> None:
    schema = dj.Schema("bench_rows")

    @schema
    class Recording(dj.Manual):
        definition = "id : int32\n---\nwaveform : <npy@>"

    Recording.insert1({"id": -1, "waveform": np.zeros((1000, 32))})
    # The rows share one file, as those of an INSERT ... SELECT do: no file is opened anyway.
    dj.conn().query(
        f"INSERT INTO {Recording.full_table_name} (id, waveform) SELECT n, waveform "
        f"FROM {Recording.full_table_name}, generate_series(1, {ROWS - 1}) n"
    )

    def to_dicts(codec: Any) -> Any:
        with as_datajoint_ships(codec):
            return Recording.to_dicts()

    builtin, bare = BuiltinNpyCodec(), BareCodec()
    times = side_by_side(
        {
            "dj-npy": Recording.to_dicts,
            "built-in": lambda: to_dicts(builtin),
            "bare JSON": lambda: to_dicts(bare),
        },
        9,
    )
    row(
        f"`to_dicts` of {ROWS:,} rows",
        times,
        [faster(times, "built-in", ">= 2x"), cost(times, "bare JSON", "<= 1.3x")],
    )
    schema.drop(prompt=False)


def bare_puts(url: str) -> Callable[[], None]:
    """As many files, by obstore's `put` in as many threads."""
    import obstore

    client = s3_client(url, signed=True)
    file = io.BytesIO()
    np.save(file, ARRAY)
    numbers = iter(range(1_000_000_000))

    def put(name: str) -> None:
        obstore.put(client, name, file.getvalue())

    def puts() -> None:
        with ThreadPoolExecutor(Store.workers) as pool:
            for _ in pool.map(put, [f"bare/{next(numbers)}.npy" for _ in range(ON_S3)]):
                pass

    return puts


def inserts(where: str, settings: dict[str, Any], bare_url: str | None = None) -> None:
    bare = f"obstore's put in {Store.workers} bare threads"
    with recordings(settings) as of:
        contenders: dict[str, Callable[[], Any]] = {
            "dj-npy": lambda: dj_npy.insert(of.table, of.rows(ON_S3)),
            "built-in": lambda: of.insert_builtin(ON_S3),
            "our Table.insert": lambda: of.insert(ON_S3),
        }
        if bare_url is not None:
            contenders[bare] = bare_puts(bare_url)
        times = side_by_side(contenders, 15 if bare_url else 5)
    on_s3 = where.startswith("S3")
    against = [
        # The server is what takes the time: no server here lets anybody be eight times faster.
        faster(times, "built-in", "no goal" if on_s3 else "it does not sync"),
        faster(times, "our Table.insert", "no goal"),
    ]
    if bare_url is not None:
        against.append(cost(times, bare, "<= 1.3x"))
    row(f"`insert` of {ON_S3} arrays of 25 kB into {where}", times, against)
    times["dj-npy"] = times["our Table.insert"]
    row(
        f"`Table.insert` of the same into {where}",
        times,
        [faster(times, "built-in", ">= 1x" if on_s3 else "it does not sync")],
    )


def streams(folder: Path, count: int = 20_000, megabyte: int = 1 << 17) -> None:
    """20,000 rows of 1 MB; sparse links to one file, so that the disk is not what is measured."""
    folder.mkdir()
    settings = {"protocol": "file", "location": str(folder)}
    ours = Codec(dj_npy.NpyCodec(), settings)
    stored = ours.insert(np.random.default_rng(0).standard_normal(megabyte))
    rows = ({"id": n, "waveform": ours.fetch(stored)} for n in range(count))
    waits, budget = [], 64 << 20
    with peak_memory() as peak:
        asked = time.perf_counter()
        for each in dj_npy.stream(rows, "waveform", max_bytes=budget):
            waits.append(time.perf_counter() - asked)
            assert each["waveform"].shape == (megabyte,)
            time.sleep(0.005)
            asked = time.perf_counter()
    first, *others = waits
    print(
        f"\n| `stream` of {count:,} rows of 1 MB, 5 ms of work on each | |\n| --- | --- |\n"
        f"| wait for the first | {first * 1e3:.2f} ms |\n"
        f"| for the others: median, 99.9 %, longest | {np.median(others) * 1e3:.2f}, "
        f"{np.quantile(others, 0.999) * 1e3:.2f}, {max(others) * 1e3:.2f} ms |\n"
        f"| peak of memory, with max_bytes of 64 MiB | {peak[0] / 2**20:.1f} MiB |\n"
        f"| threads left | {sum(each.name == 'dj-npy' for each in threading.enumerate())} |",
        flush=True,
    )
