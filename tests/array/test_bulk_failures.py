"""Many arrays at once, when a server dies or the user has had enough: real processes."""

import gc
import json
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dj_npy
from dj_npy._concurrency.pipeline import Pipeline, Task, WorkItem
from tests.datajoint.test_bulk import WAVEFORM, threads
from tests.support import warm
from tests.support.servers import (
    ACCESS_KEY,
    BUCKET,
    SECRET_KEY,
    FolderRaw,
    S3Raw,
    free_port,
    s3_settings,
    script,
    started,
)

ROOT = Path(__file__).parents[2]
one_database = pytest.mark.parametrize("database", ["postgresql"], indirect=True)

CHILD = """
import json, os, resource, signal, sys, threading, time
import numpy as np
import datajoint as dj
import dj_npy

def connect():
    for name, value in json.loads(sys.argv[1]).items():
        dj.config[name] = value
    dj.logger.setLevel("ERROR")
    dj.config.stores = {"default": "main", "main": json.loads(sys.argv[2])}
    return dj.Schema(sys.argv[3])
"""


def in_child(
    program: str, database: Any, store: dict[str, Any], *arguments: str, **env: str
) -> Any:
    """What a program of its own, on the same database, says in its last line, as JSON."""
    connection = database.connection.conn_info
    config = {
        "database.backend": database.connection.adapter.backend,
        "database.host": connection["host"],
        "database.port": connection["port"],
        "database.user": connection["user"],
        "database.password": connection["passwd"],
        "database.use_tls": False,
    }
    given = [json.dumps(config), json.dumps(store), *arguments]
    said = warm.output("-c", CHILD + program, *given, env={**os.environ, **env}, timeout=300)
    return json.loads(said.splitlines()[-1])


# --- Ctrl-C ----------------------------------------------------------------------------------

# A signal that comes while the garbage collector calls back is lost, as it is for a thread that
# is collected. So none is left to it.
INTERRUPTED = """
import gc
gc.disable()
schema = connect()

@schema
class Interrupted(dj.Manual):
    definition = "id : int32\\n---\\nwaveform : <npy@>"

array = np.zeros(1 << 15)
rows = [{"id": n, "waveform": array} for n in range(20_000)]
Interrupted.insert1({**rows[0], "id": -1})
ref = Interrupted.fetch1("waveform")

def refs():
    return (dj_npy.NpyRef(ref._raw, ref._config) for _ in range(10**5))

def load():
    dj_npy.load(list(refs()))

def stream():
    for array in dj_npy.stream(refs(), progress=True):
        time.sleep(0.0005)

def insert():
    dj_npy.insert(Interrupted, rows)

def threads():
    return sum(thread.name == "dj-npy" for thread in threading.enumerate())

told = {}
for work in (load, stream, insert):
    signalled = []
    def interrupt():
        signalled.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
    timer = threading.Timer(0.7, interrupt)
    timer.start()
    try:
        work()
    except KeyboardInterrupt:
        took = time.monotonic() - signalled[0]
        at_once = threads()
        until = time.monotonic() + 2  # those of a stream that nobody has any more are not awaited
        while threads() and time.monotonic() < until:
            time.sleep(0.01)
        told[work.__name__] = took, threads(), at_once
told["rows"] = len(Interrupted())
gc.set_debug(gc.DEBUG_SAVEALL)
gc.collect()
told["garbage"] = sum(isinstance(each, threading.Thread) for each in gc.garbage)
print(json.dumps(told))
"""


@pytest.mark.parametrize("where", ["local", "moto"])
@one_database
def test_ctrl_c_stops_within_a_second_and_leaves_nothing(
    where: str, request: Any, schema: Any, database: Any, tmp_path: Path
) -> None:
    settings, raw = {"protocol": "file", "location": str(tmp_path)}, FolderRaw(tmp_path)
    if where == "moto":
        settings = s3_settings(request.getfixturevalue("moto"), location=f"c/{uuid.uuid4().hex}")
        raw = S3Raw(settings["endpoint"], settings["location"])  # type: ignore[assignment]
    told = in_child(INTERRUPTED, database, settings, schema.database)
    for work in ("load", "stream", "insert"):
        took_s, left, at_once = told[work]
        print(f"{where}, {work}: {took_s:.2f} s after the signal, {at_once} threads")
        assert left == 0
        assert took_s < 10  # one is what is promised; this machine may have other work
    assert told["rows"] == 1
    assert told["garbage"] == 0
    assert len(raw.keys() - {".dj-npy-probe"}) == 1


@contextmanager
def nothing_left_to_the_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        assert not any(isinstance(each, threading.Thread | Task) for each in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def fail() -> None:
    time.sleep(0.05)  # until it is awaited
    raise ValueError


def test_a_thread_whose_task_has_failed_is_not_left_to_the_collector() -> None:
    """Its error leads to the thread's own frames, and these to whose error was awaited."""
    with nothing_left_to_the_collector():
        ahead = Pipeline([WorkItem("one", [Task(fail)])], 1, 1)
        assert next(ahead).item == "one"
        ahead.close()
        del ahead


@pytest.mark.parametrize("in_threads", [False, True])
def test_an_error_that_was_raised_is_not_left_to_the_collector(in_threads: bool) -> None:
    """It leads to the frame that asked for it, and this to its task and to others that failed."""

    def ask() -> None:
        work_items = [WorkItem(n, [Task(fail)]) for n in range(3)]
        if in_threads:
            work_items = list(Pipeline(work_items, 2, 3))
        work_items[0].tasks[0].result()

    with nothing_left_to_the_collector(), suppress(ValueError):
        ask()


# --- memory ----------------------------------------------------------------------------------

MEMORY = """
from types import SimpleNamespace
from benchmarks._measure import peak_memory

stores = {"default": "main", "main": json.loads(sys.argv[2])}
config = SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(stores[name]))
codec = dj_npy.NpyCodec()
context = {"schema": "lab", "table": "recording", "field": "waveform", "config": config}

def stored(array, n=0):
    return codec.encode(array, key={"n": n}, context=context)

row = stored(np.zeros(10 << 17))
small = stored(np.ones(1 << 17), 1)
codec.decode(row, context=context).load()
refs = [codec.decode(row, context=context) for _ in range(300)]
told = {}
with peak_memory() as peak:
    for ref in refs:
        assert ref.load()[0] == 0
told["load"] = peak[0]
assert sum(ref.is_loaded for ref in refs) == 3
for ref in refs:
    ref.unload()
del refs
with peak_memory() as peak:
    refs = (codec.decode(row, context=context) for _ in range(100))
    for array in dj_npy.stream(refs, max_bytes="40 MiB"):
        assert array[0] == 0
    del array
told["stream"] = peak[0]
with peak_memory() as peak:
    refs = (codec.decode(small, context=context) for _ in range(2000))
    for array in dj_npy.stream(refs, max_bytes="20 MiB"):
        assert array[0] == 1
    del array
told["stream of small ones"] = peak[0]
print(json.dumps(told))
"""


def test_loads_one_after_the_other_and_streams_stay_within_their_budgets(
    postgresql: Any, tmp_path: Path
) -> None:
    local = {"protocol": "file", "location": str(tmp_path)}
    environment = {"DJ_NPY_MEMORY": "32 MiB", "DJ_NPY_FSYNC": "0", "PYTHONPATH": str(ROOT)}
    told = in_child(MEMORY, postgresql, local, **environment)
    print({name: f"{nbytes / 2**20:.1f} MiB" for name, nbytes in told.items()})
    noise = 16 << 20  # without memory of their own, `stream` takes 190 MiB
    assert told["load"] <= (32 + 10 << 20) + noise
    # What is read ahead, and two that the caller has: the one it holds while it asks for the next.
    assert told["stream"] <= (40 + 2 * 10 << 20) + noise
    assert told["stream of small ones"] <= (20 + 2 << 20) + noise


WRITTEN = """
from benchmarks._measure import peak_memory
from dj_npy._datajoint import insertion as _insertion
_insertion.IN_FLIGHT = 32 << 20
schema = connect()

@schema
class Written(dj.Manual):
    definition = "id : int32\\n---\\nwaveform : <npy@>"

row = np.ones((1 << 19, 8))[:1 << 16]     # 4 MiB
Written.insert1({"id": -1, "waveform": np.ones(3)})
told = {}

def blocks(count):
    for n in range(count):
        yield np.full((1 << 16, 8), n)

with peak_memory() as peak:
    Written.insert1({"id": 0, "waveform": dj_npy.Blocks((128 << 16, 8), "i8", blocks(128))})
told["blocks"] = peak[0]
with peak_memory() as peak:
    dj_npy.insert(Written, ({"id": 1 + n, "waveform": block} for n, block in enumerate(blocks(60))))
told["insert"] = peak[0]
(ref,) = (Written & "id = 0").to_arrays("waveform")
assert ref.shape == (128 << 16, 8)
assert [int(ref[n << 16, 3]) for n in (0, 1, 127)] == [0, 1, 127]
assert ref.verify() == "as inserted"
print(json.dumps(told))
"""


@pytest.mark.parametrize("where", ["local", "rclone"])
@one_database
def test_what_is_made_as_it_is_written_takes_the_memory_of_what_is_on_its_way(
    where: str, request: Any, schema: Any, database: Any, tmp_path: Path
) -> None:
    settings = {"protocol": "file", "location": str(tmp_path)}
    if where == "rclone":
        settings = s3_settings(request.getfixturevalue("rclone"), location=uuid.uuid4().hex)
    environment = {"DJ_NPY_FSYNC": "0", "PYTHONPATH": str(ROOT)}
    told = in_child(WRITTEN, database, settings, schema.database, **environment)
    print({name: f"{nbytes / 2**20:.1f} MiB" for name, nbytes in told.items()})
    # Of 512 MiB: a block or two; on S3, 8 parts of 8 MiB on their way, and what fills the next.
    assert told["blocks"] <= (24 << 20 if where == "local" else 128 << 20)
    # Of 240 MiB: what is in flight, each array that is being made and copied, and noise.
    assert told["insert"] <= (32 + 12 + 16 << 20) + (16 << 20) * (where == "rclone")


# --- the store dies --------------------------------------------------------------------------


@contextmanager
def mortal(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server of S3 on a folder, and its process, to be killed."""
    (folder / BUCKET).mkdir(parents=True)
    port = free_port()
    command = [script("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        [*command, "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with started(["sleep", "1000"], port) as url:
            yield url, process
    finally:
        process.kill()
        process.wait(30)


@pytest.mark.parametrize("what", ["insert", "load", "stream"])
@one_database
def test_the_store_dies(
    database: Any,
    table: Callable[..., Any],
    stores: dict[str, Any],
    tmp_path: Path,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dj_npy._stores.obstore.reader._ATTEMPTS", 1)  # or it would take 25 s
    retries = {"max_retries": 1, "retry_timeout": timedelta(seconds=5)}
    monkeypatch.setattr("dj_npy._stores.obstore.clients._retry_config", lambda _: retries)
    with mortal(tmp_path / "served") as (url, process):
        database.config.stores = {**stores, "mortal": s3_settings(url, location="")}
        recording = table("n : int32\n---\nwaveform : <npy@mortal>")
        count = 60
        if what != "insert":
            dj_npy.insert(recording, [{"n": n, "waveform": WAVEFORM} for n in range(count)])
        refs = recording.to_arrays("waveform") if what != "insert" else []
        begun = [0.0]

        def several(items: Any) -> Iterator[Any]:
            for n, item in enumerate(items):
                if n == 30:
                    process.kill()
                    process.wait(30)
                    begun[0] = time.monotonic()
                yield item

        rows = ({"n": n, "waveform": WAVEFORM} for n in range(200))
        works: dict[str, Callable[[], Any]] = {
            "insert": lambda: dj_npy.insert(recording, several(rows)),
            "load": lambda: dj_npy.load(several(refs)),
            "stream": lambda: list(dj_npy.stream(several(refs), max_bytes="1 kB")),
        }
        with pytest.raises(dj_npy.StoreError, match=r"could not (read|write)"):
            works[what]()
        print(f"{time.monotonic() - begun[0]:.1f} s")
        assert len(recording()) == (0 if what == "insert" else count)
        until = time.monotonic() + 20  # a request that is being tried again ends in its thread
        while threads() and time.monotonic() < until:
            time.sleep(0.05)
        assert not threads()


@one_database
def test_an_upload_in_parts_that_fails_leaves_nothing(
    database: Any, table: Callable[..., Any], stores: dict[str, Any], moto: str
) -> None:
    location = f"parts/{uuid.uuid4().hex}"
    database.config.stores = {**stores, "s3": s3_settings(moto, location=location)}
    recording = table("n : int32\n---\nmovie : <npy@s3>")

    def frames(count: int) -> Iterator[Any]:
        for _ in range(count):
            yield np.ones((1 << 20, 2), "f4")
        raise OSError("the camera is gone")

    shape = (10 << 20, 2)  # 80 MiB: it goes in parts
    rows = [
        {"n": 1, "movie": WAVEFORM},
        {"n": 2, "movie": dj_npy.Blocks(shape, "f4", frames(9))},
    ]
    with pytest.raises(
        OSError, match=r"^the camera is gone\nWhile an array was written: .*, attribute movie, key "
    ):
        dj_npy.insert(recording, rows)
    assert not recording()
    raw = S3Raw(moto, location)
    assert raw.keys() <= {".dj-npy-probe"}
    assert raw.uploads() == []


# --- processes -------------------------------------------------------------------------------

POPULATED = """
schema = connect()

@schema
class Recording(dj.Manual):
    definition = "id : int32\\n---\\nwaveform : <npy@>"

@schema
class Analysis(dj.Computed):
    definition = "-> Recording\\n---\\nmean : <npy@>"

    class Unit(dj.Part):
        definition = "-> master\\nunit : int32\\n---\\nspikes : <npy@>"

    def make(self, key):
        (array,) = dj_npy.load((Recording & key).to_arrays("waveform"))
        dj_npy.insert(self, [{**key, "mean": array.mean(axis=0)}])
        dj_npy.insert(self.Unit, ({**key, "unit": n, "spikes": array + n} for n in range(5)))

dj_npy.insert(Recording, [{"id": n, "waveform": np.full((3, 4), n)} for n in range(6)])
dj_npy.load(Recording.to_arrays("waveform"))  # obstore is in use: a forked child cannot use it
Analysis.populate(processes=2, display_progress=False)
units = dj_npy.load(Analysis.Unit.to_dicts())
assert all((row["spikes"] == row["id"] + row["unit"]).all() for row in units)
print(json.dumps([len(Analysis()), len(units)]))
"""


@one_database
def test_populate_in_processes_after_the_parent_used_s3(
    schema: Any, database: Any, moto: str
) -> None:
    settings = s3_settings(moto, location=f"populate/{uuid.uuid4().hex}")
    assert in_child(POPULATED, database, settings, schema.database) == [6, 30]


def test_a_row_without_a_path_among_small_files(stored: Callable[..., dj_npy.NpyRef]) -> None:
    refs = [stored(WAVEFORM, number) for number in range(40)]
    refs[30] = dj_npy.NpyRef({**refs[30]._raw, "path": 5}, refs[0]._config)
    with pytest.raises(dj_npy.ArrayCorruptError, match="no valid path"):
        dj_npy.load(refs)
