"""Stores in S3 against the built-in codec, other libraries, and bare requests."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from datajoint.builtin_codecs.npy import NpyCodec as BuiltinNpyCodec

import dj_npy
from benchmarks._measure import RUN, cost, facts, faster, row, scratch, side_by_side
from tests.support.servers import (
    ACCESS_KEY,
    BUCKET,
    SECRET_KEY,
    free_port,
    rclone,
    s3_settings,
    started,
)

MEGABYTES = 256
NGINX = """
{modules}
worker_processes 2; daemon off; error_log stderr crit; pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; keepalive_requests 1000000;
    server {{ listen 127.0.0.1:{port}; root {folder}; {server} }}
}}
"""


def main() -> None:
    """Print the tables."""
    with scratch() as folder:
        (folder / BUCKET).mkdir()
        with nginx(folder) as url:
            print("| work | dj-npy, ms | against |\n| --- | --- | --- |")
            large_array(folder / BUCKET, url)
        if not RUN.quick:
            with rclone(folder / "rclone") as url:
                more_than_memory(folder, url)


class Codec:
    """A codec as a table with a store of these settings would call it."""

    def __init__(self, codec: Any, settings: dict[str, Any], inserted: int = 0) -> None:
        stores = {"default": "main", "main": settings}

        def spec(_: Any = None) -> dict[str, Any]:
            return {"schema_prefix": "_schema", **settings}

        config = SimpleNamespace(stores=stores, get_store_spec=spec)
        self._codec, self._numbers = codec, inserted
        self.context = {"config": config, "schema": "bench", "table": "t", "field": "a"}

    def insert(self, array: Any) -> Any:
        self._numbers += 1
        key = {"id": self._numbers, "table": type(self._codec).__module__}
        return self._codec.encode(array, key=key, context=self.context, store_name="main")

    def fetch(self, metadata: Any) -> Any:
        return self._codec.decode(metadata, context=self.context)

    def load(self, metadata: Any) -> Any:
        return self.fetch(metadata).load()


def s3(url: str) -> dict[str, Any]:
    return s3_settings(url, location="")


def s3_client(url: str, signed: bool = False) -> Any:
    from obstore.store import S3Store

    keys: dict[str, Any] = {"skip_signature": True}
    if signed:
        keys = {
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "region": "us-east-1",
            "virtual_hosted_style_request": False,
        }
    return S3Store(BUCKET, endpoint=url, client_options={"allow_http": True}, **keys)


def large_array(bucket: Path, url: str) -> None:
    import obstore
    import tensorstore
    import zarr
    from zarr.storage import ObjectStore

    shape = (MEGABYTES << 14, 8)
    array = np.random.default_rng(0).standard_normal(shape)
    stored = Codec(dj_npy.NpyCodec(), {"protocol": "file", "location": str(bucket)}).insert(array)
    rows = (8 << 20) // (8 * shape[1])
    zarr.create_array(
        bucket / "zarr", shape=shape, chunks=(rows, shape[1]), dtype="f8", compressors=None
    )[:] = array
    ours, builtin = Codec(dj_npy.NpyCodec(), s3(url)), Codec(BuiltinNpyCodec(), s3(url))
    client = s3_client(url)
    on_zarr = zarr.open_array(ObjectStore(client, read_only=True), path="zarr", mode="r")
    on_tensorstore = tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "http", "base_url": f"{url}/{BUCKET}/zarr/"}}
    ).result()
    path, offset, part = stored["path"], stored["offset"], 8 << 20

    def bare() -> Any:
        into = np.empty(shape)
        view = into.reshape(-1).view(np.uint8)

        def fetch(start: int) -> None:
            stop = min(start + part, array.nbytes)
            data = obstore.get_range(client, path, start=offset + start, end=offset + stop)
            view[start:stop] = np.frombuffer(memoryview(data), np.uint8)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fetch, range(0, array.nbytes, part)))
        return into

    contenders = {
        "dj-npy": lambda: ours.load(stored),
        "built-in": lambda: builtin.load(stored),
        "zarr on obstore": lambda: on_zarr[:],
        "TensorStore": lambda: on_tensorstore.read().result(),
        "parallel ranges": bare,
    }
    for run in contenders.values():
        assert np.array_equal(run(), array)
    times = side_by_side(contenders, 15)
    row(
        f"load {MEGABYTES} MB from S3 (nginx)",
        times,
        [
            faster(times, "built-in", ">= 8x"),
            faster(times, "zarr on obstore", "> 1x"),
            faster(times, "TensorStore", "> 1x"),
            cost(times, "parallel ranges", "<= 1.25x"),
        ],
    )


GIGABYTES, LIMIT = 6, 512 << 20
UPLOAD = """
import json, sys
import numpy as np
import dj_npy
from benchmarks.remote import Codec
sys.stdin.readline()
codec = Codec(dj_npy.NpyCodec(), json.loads(sys.argv[2]))
array = np.memmap(sys.argv[1], "f8", "r", shape=(6 << 17, 1024))
codec.insert(np.zeros(3))
codec.insert(array)
with open("/proc/self/status") as file:
    kept = next(line for line in file if line.startswith("RssAnon"))
print(kept.split()[1])
"""


def more_than_memory(folder: Path, url: str) -> None:
    """A map of 6 GB goes up in a process that may use 512 MiB, its cached pages included."""
    file = folder / "sparse"
    with file.open("wb") as sparse:
        sparse.truncate(GIGABYTES << 30)
    groups = Path("/sys/fs/cgroup/memory")
    title = f"a memmap of {GIGABYTES} GB (sparse) to S3 (rclone)"
    if not (groups / "memory.limit_in_bytes").exists():
        facts(title, {"not measured": "it needs root and the memory controller of cgroups 1"})
        return
    group = groups / f"dj-npy-bench-{time.time_ns()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(LIMIT))
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", UPLOAD, str(file), json.dumps(s3(url))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        (group / "cgroup.procs").write_text(str(process.pid))
        start = time.perf_counter()
        told, _ = process.communicate("go\n")
        seconds = time.perf_counter() - start
        assert process.returncode == 0, f"it ended with {process.returncode}: out of memory?"
        kept = int(told.split()[-1])
        facts(
            title,
            {
                "memory it was allowed, its cached pages included": f"{LIMIT >> 20} MiB: enough",
                "of it not just cached pages, at the end": f"{kept >> 10} MiB",
                "time, import included": f"{seconds:.1f} s",
            },
        )
    finally:
        time.sleep(0.5)
        group.rmdir()


@contextmanager
def nginx(folder: Path, modules: str = "", server: str = "") -> Iterator[str]:
    """A server of the files in `folder`, with more directives."""
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, modules=modules, server=server))
    command = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    assert command, "apt-get install nginx-light libnginx-mod-http-lua"
    with started([command, "-c", str(config)], port) as url:
        yield url
