"""Many arrays at once, where callers, threads, connections and bars do what they should not."""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from datajoint.errors import DataJointError, DuplicateError

import dj_npy
from tests.datajoint.test_bulk import WAVEFORM
from tests.support import warm
from tests.support.servers import files

Stored = Callable[..., dj_npy.NpyRef]
MakeTable = Callable[..., Any]
one_database = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


def rows_of(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"recording_id": first + n, "waveform": WAVEFORM + first + n} for n in range(count)]


def plainly(table: Any, rows: Any) -> None:
    table.insert(rows)


def assert_whole(recording: Any, store: Path, count: int) -> None:
    """So many rows, each with its own array, and no file besides."""
    rows = recording.to_dicts()
    assert len(rows) == count
    for row, array in zip(rows, dj_npy.load(row["waveform"] for row in rows), strict=True):
        np.testing.assert_array_equal(array, WAVEFORM + row["recording_id"])
    assert files(store) == {row["waveform"].path for row in rows}


# --- callers ---------------------------------------------------------------------------------


@one_database
def test_two_threads_insert_at_once(recording: Any, store: Path) -> None:
    def insert(first: int) -> None:
        dj_npy.insert(recording, iter(rows_of(50, first)))

    both = [threading.Thread(target=insert, args=(first,)) for first in (0, 50)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert_whole(recording, store, 100)


@one_database
def test_a_generator_that_fails_leaves_nothing(recording: Any, store: Path) -> None:
    def rows() -> Iterator[Any]:
        yield from rows_of(57)
        raise OSError("the camera is gone")

    for insert in (dj_npy.insert, plainly):
        with pytest.raises(OSError, match=r"^the camera is gone$"):
            insert(recording, rows())
        assert_whole(recording, store, 0)


@one_database
def test_a_generator_that_loads_and_inserts_itself(
    recording: Any, table: MakeTable, store: Path
) -> None:
    other = table("n : int32\n---\nwaveform : <npy@>", "Other")
    dj_npy.insert(other, [{"n": -1, "waveform": WAVEFORM}])
    ref = (other & "n=-1").fetch1("waveform")

    def rows() -> Iterator[Any]:
        for n in range(20):
            (array,) = dj_npy.load([ref])
            ref.unload()
            insert = dj_npy.insert if n % 2 else plainly
            insert(other, [{"n": n, "waveform": array * n}])
            if n % 5 == 0:
                with pytest.raises(DataJointError):
                    insert(other, [{"n": 100 + n, "waveform": array}, {"n": n, "waveform": [1]}])
            other.update1({"n": n, "waveform": array + n})
            yield {"recording_id": n, "waveform": array + n}

    with pytest.raises(DataJointError, match="got list"):
        dj_npy.insert(
            recording,
            (row if row["recording_id"] < 15 else {**row, "waveform": [1]} for row in rows()),
        )
    assert not recording()
    assert len(other()) > 15
    (other & "n >= 0").delete_quick()
    kept = {ref.path for ref in other.to_arrays("waveform")}
    for orphan in files(store) - kept:
        assert "/other/" in orphan  # of deleted and updated rows
        (store / orphan).unlink()
    dj_npy.insert(recording, rows())
    for row in other.to_dicts():
        row["waveform"].verify()
    for row in recording.to_dicts():
        np.testing.assert_array_equal(row["waveform"], WAVEFORM + row["recording_id"])


@one_database
def test_one_array_in_several_rows_and_one_row_changed_afterwards(
    recording: Any, store: Path
) -> None:
    array = WAVEFORM.copy()
    rows = [{"recording_id": n, "waveform": array} for n in range(5)]
    dj_npy.insert(recording, rows)
    array[:] = -1
    rows[0]["waveform"] = None
    for ref in recording.to_arrays("waveform"):
        np.testing.assert_array_equal(ref.load(), WAVEFORM)


@one_database
def test_one_thread_is_enough(recording: Any, store: Path) -> None:
    dj_npy.insert(recording, rows_of(40), max_workers=1)
    assert_whole(recording, store, 40)
    refs = recording.to_arrays("waveform", order_by="recording_id")
    for arrays in (dj_npy.load(refs, max_workers=1), dj_npy.stream(refs, max_workers=1)):
        for n, array in enumerate(arrays):
            np.testing.assert_array_equal(array, WAVEFORM + n)


def test_null_goes_through(table: MakeTable, store: Path) -> None:
    recording = table("n : int32\n---\nwaveform = null : <npy@>")
    frame = pandas.DataFrame({"n": range(6), "waveform": [WAVEFORM, None] * 3})
    dj_npy.insert(recording, frame)
    dj_npy.insert(recording, [{"n": 6, "waveform": None}, {"n": 7, "waveform": WAVEFORM}])
    assert len(files(store)) == 4
    rows = recording.to_dicts(order_by="n")
    refs = [row["waveform"] for row in rows]
    for arrays in (dj_npy.load(refs), list(dj_npy.stream(refs))):
        assert [array is None for array in arrays] == [False, True] * 3 + [True, False]
    for some in (dj_npy.load(rows, "waveform"), list(dj_npy.stream(rows, "waveform"))):
        for row, loaded in zip(rows, some, strict=True):
            assert loaded["n"] == row["n"]
            if row["waveform"] is None:
                assert loaded["waveform"] is None
            else:
                np.testing.assert_array_equal(loaded["waveform"], WAVEFORM)


@one_database
def test_a_query_and_its_rows(recording: Any, table: MakeTable) -> None:
    copies = table("recording_id : int32\n---\nwaveform : <npy@>", "Copies")
    dj_npy.insert(recording, rows_of(5))
    dj_npy.insert(copies, recording & "recording_id > 1")
    assert copies.to_arrays("recording_id").tolist() == [2, 3, 4]
    for n, row in enumerate(dj_npy.stream(recording())):
        np.testing.assert_array_equal(row["waveform"], WAVEFORM + n)


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
@pytest.mark.parametrize("transaction", [False, True])
@one_database
def test_duplicates_are_skipped_in_chunks(
    recording: Any, store: Path, chunk_size: Any, transaction: bool
) -> None:
    dj_npy.insert(recording, rows_of(5))
    options = {"skip_duplicates": True, "chunk_size": chunk_size}
    rows = [*rows_of(9), *rows_of(2, 7)]  # two of them twice in the same insert
    if chunk_size != 1 and chunk_size != 3:
        rows = rows_of(9)
    if transaction:
        with recording.connection.transaction:
            dj_npy.insert(recording, rows, **options)
    else:
        dj_npy.insert(recording, rows, **options)
    assert_whole(recording, store, 9)


@one_database
def test_a_chunk_that_fails_leaves_those_before(recording: Any, store: Path) -> None:
    rows = [*rows_of(57), {"recording_id": 57, "waveform": [1]}, *rows_of(42, 58)]
    with pytest.raises(DataJointError, match="got list"):
        dj_npy.insert(recording, iter(rows), chunk_size=10)
    assert_whole(recording, store, 50)


@one_database
def test_all_arrays_go_by_one_statement(
    recording: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    query = recording.connection.query

    def recorded(text: str, *args: Any, **options: Any) -> Any:
        sent.append(text.split()[0])
        return query(text, *args, **options)

    monkeypatch.setattr(recording.connection, "query", recorded)
    dj_npy.insert(recording, rows_of(100))
    assert sent.count("INSERT") == 1


# --- references ------------------------------------------------------------------------------


def test_a_hundred_thousand_times_nothing() -> None:
    nothing = [None] * 100_000
    assert dj_npy.load(nothing) == nothing
    assert list(dj_npy.stream(nothing)) == nothing
    assert dj_npy.load([{}] * 1000) == [{}] * 1000


def test_a_store_that_is_not_configured_is_told_in_its_turn(stored: Stored) -> None:
    refs = [stored(WAVEFORM, n) for n in range(20)]
    refs[9] = dj_npy.NpyRef({**refs[9]._raw, "store": "moon"}, refs[9]._config)
    stream = dj_npy.stream(refs)
    for _ in range(9):
        next(stream)
    with pytest.raises(Exception, match="moon") as by_stream:
        next(stream)
    with pytest.raises(Exception, match="moon") as by_load:
        dj_npy.load(refs)
    with pytest.raises(Exception, match="moon") as alone:
        refs[9].load()
    assert type(by_stream.value) is type(by_load.value) is type(alone.value)


def test_rows_that_make_no_sense_are_told_in_their_turn(stored: Stored) -> None:
    good = stored(WAVEFORM)
    for nonsense in (None, 3, {}, {**good._raw, "path": "../x"}, {**good._raw, "dtype": "?!"}):
        bad = dj_npy.NpyRef(nonsense, good._config)
        for loading in (dj_npy.load, lambda refs: list(dj_npy.stream(refs))):
            with pytest.raises(DataJointError):
                loading([good, bad, good])


def test_small_local_files_take_no_thread_each(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    start = threading.Thread.start

    def recorded(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", recorded)
    monkeypatch.setattr("dj_npy._concurrency.pipeline._SLOW_S", 60)
    refs = [stored(WAVEFORM, n) for n in range(200)]
    dj_npy.load(refs)
    assert started == []


# --- streams ---------------------------------------------------------------------------------


def test_what_comes_next_is_read_while_the_caller_computes(
    stored: Stored, opened: list[str]
) -> None:
    refs = [stored(np.zeros(100_000), n) for n in range(6)]
    opened.clear()
    stream = dj_npy.stream(refs)
    next(stream)
    until = time.monotonic() + 10
    while not all(any(path.endswith(ref.path) for path in opened) for ref in refs[1:3]):
        assert time.monotonic() < until
        time.sleep(0.01)
    stream.close()
    del stream
    assert not any(ref.is_loaded for ref in refs)


def test_a_stream_closed_by_another_thread_ends(stored: Stored) -> None:
    refs = [stored(np.zeros(50_000), n % 20) for n in range(20)] * 1000
    for delay in (0.0, 0.01, 0.03, 0.1):
        stream = dj_npy.stream(refs, max_bytes="10 MB")
        next(stream)
        closer = threading.Timer(delay, stream.close)
        closer.start()
        for _ in stream:
            pass
        closer.join()
        with pytest.raises(StopIteration):
            next(stream)


def test_threads_may_share_a_stream_behind_a_lock(stored: Stored) -> None:
    refs = [stored(WAVEFORM + n, n) for n in range(100)]
    stream, lock, found = dj_npy.stream(refs), threading.Lock(), []

    def take() -> None:
        while True:
            with lock:
                array = next(stream, None)
            if array is None:
                return
            found.append(array[0, 0])

    takers = [threading.Thread(target=take) for _ in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert sorted(found) == list(range(100))


FORKING = """
import json, os, sys
from types import SimpleNamespace
import numpy as np
import dj_npy

stores = {"default": "main", "main": json.loads(sys.argv[1])}
config = SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(stores[name]))
codec = dj_npy.NpyCodec()
context = {"schema": "lab", "table": "recording", "field": "waveform", "config": config}
refs = []
for n in range(60):
    row = codec.encode(np.full((50, 100), n, float), key={"n": n}, context=context)
    refs.append(codec.decode(row, context=context))
stream = dj_npy.stream(refs, max_bytes="400 kB")
assert next(stream)[0, 0] == 0
pid = os.fork()
rest = [int(array[0, 0]) for array in stream]
assert rest == list(range(1, 60)), rest
assert [int(array[0, 0]) for array in dj_npy.load(refs)] == list(range(60))
if pid == 0:
    print("child", flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print("parent")
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["local", "moto"])
def test_a_fork_while_a_stream_is_open(where: str, request: Any, tmp_path: Path) -> None:
    import json

    from tests.support.servers import s3_settings

    settings = {"protocol": "file", "location": str(tmp_path)}
    if where == "moto":
        settings = s3_settings(request.getfixturevalue("moto"), location=f"fork/{time.time_ns()}")
    assert warm.output("-c", FORKING, json.dumps(settings)).split() == ["child", "parent"]


# --- progress --------------------------------------------------------------------------------


class Broken:
    """A screen that is gone."""

    encoding = "utf-8"

    def write(self, _: str) -> None:
        raise BrokenPipeError("no screen")

    def flush(self) -> None:
        raise BrokenPipeError("no screen")


@one_database
def test_a_bar_that_cannot_be_shown_stops_nothing(
    recording: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Broken())
    dj_npy.insert(recording, rows_of(20), progress=True)
    refs = recording.to_arrays("waveform")
    assert len(dj_npy.load(refs, progress=True)) == 20
    assert len(list(dj_npy.stream(refs, progress=True))) == 20
    monkeypatch.undo()
    assert_whole(recording, store, 20)


# --- interrupts ------------------------------------------------------------------------------


# One that comes in a callback of Python's own is swallowed there, and told.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@one_database
def test_interrupts_at_any_moment(recording: Any, store: Path, stored: Stored) -> None:
    """The short form takes 3 s; ``DJ_NPY_TEST_SECONDS`` makes it longer."""
    seconds = float(os.environ.get("DJ_NPY_TEST_SECONDS", "12")) / 4
    refs = [stored(np.full(1 << n % 18, n % 256, "u1"), 10_000 + n) for n in range(300)]
    before, numbers, interrupted = files(store), iter(range(10**6)), 0

    def insert() -> None:
        some = [{"recording_id": next(numbers), "waveform": WAVEFORM} for _ in range(20)]
        dj_npy.insert(recording, (row for row in some))

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    works = [
        lambda: dj_npy.load(refs, max_workers=4),
        lambda: [None for _ in dj_npy.stream(refs, max_bytes="1 MB", max_workers=4)],
        insert,
    ]
    old = signal.signal(signal.SIGALRM, interrupt)
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            work = random.choice(works)
            for ref in refs:
                ref.unload()
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.06))
                try:
                    work()
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert interrupted > 10
    assert [array[-1] for array in dj_npy.load(refs)] == [n % 256 for n in range(300)]
    rows = recording.to_dicts()
    paths = {row["waveform"].path for row in rows}
    assert paths <= files(store)
    orphans = files(store) - paths - before
    print(f"{interrupted} interrupts, {len(rows)} rows, {len(orphans)} files without a row")


# --- the database ----------------------------------------------------------------------------


@contextmanager
def administrator(database: Any) -> Iterator[Any]:
    """Another connection to the same server."""
    info = database.connection.conn_info
    if database.connection.adapter.backend == "postgresql":
        import psycopg2

        other = psycopg2.connect(
            host=info["host"], port=info["port"], user=info["user"], password=info["passwd"]
        )
        other.autocommit = True
    else:
        import pymysql

        other = pymysql.connect(
            host=info["host"], port=info["port"], user=info["user"], password=info["passwd"]
        )
    try:
        yield other.cursor()
    finally:
        other.close()


def end_session(database: Any) -> None:
    """Have the server end the session of the tests' connection, and wait until it is gone."""
    postgresql = database.connection.adapter.backend == "postgresql"
    whose = "SELECT pg_backend_pid()" if postgresql else "SELECT CONNECTION_ID()"
    kill = "SELECT pg_terminate_backend(%s)" if postgresql else "KILL %s"
    listed = (
        "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
        if postgresql
        else "SELECT 1 FROM information_schema.processlist WHERE id = %s"
    )
    (number,) = database.connection.query(whose).fetchone()
    with administrator(database) as cursor:
        cursor.execute(kill, (number,))
        until = time.monotonic() + 10
        while True:
            cursor.execute(listed, (number,))
            if cursor.fetchone() is None:
                return
            assert time.monotonic() < until
            time.sleep(0.01)


def and_then(rows: list[Any], call: Callable[[], object]) -> Iterator[Any]:
    yield from rows
    call()


def mend(database: Any) -> None:
    """Connect again, as DataJoint does not to PostgreSQL."""
    database.connection.connect()
    if database.connection.in_transaction:
        database.connection.cancel_transaction()


def test_a_connection_lost_while_arrays_are_written(
    database: Any, recording: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dj_npy._datajoint.insertion._QUIET_S", 0)
    postgresql = database.connection.adapter.backend == "postgresql"
    for first, insert in ((0, dj_npy.insert), (20, plainly)):
        rows = and_then(rows_of(20, first), lambda: end_session(database))
        if postgresql:
            with pytest.raises(Exception, match="closed the connection"):
                insert(recording, rows)
            mend(database)
        else:
            insert(recording, rows)  # on a new connection
        assert_whole(recording, store, 0 if postgresql else first + 20)


def test_a_connection_lost_at_the_insert_leaves_every_row_its_file(
    database: Any, recording: Any, store: Path
) -> None:
    with suppress(Exception):
        dj_npy.insert(recording, and_then(rows_of(20), lambda: end_session(database)))
    mend(database)
    for row in recording.to_dicts():
        row["waveform"].verify()
    assert len(files(store)) == 20  # the server may have had the rows: nobody can know


@pytest.mark.parametrize("quiet_s", [0, 60])
def test_a_transaction_that_is_lost_leaves_nothing(
    database: Any, recording: Any, store: Path, monkeypatch: pytest.MonkeyPatch, quiet_s: int
) -> None:
    monkeypatch.setattr("dj_npy._datajoint.insertion._QUIET_S", quiet_s)
    for insert in (dj_npy.insert, plainly):
        with pytest.raises(Exception), database.connection.transaction:  # noqa: B017, PT011
            insert(recording, and_then(rows_of(20), lambda: end_session(database)))
        mend(database)
        assert_whole(recording, store, 0)


def test_what_is_no_transaction_any_more_is_taken_for_none(
    database: Any, recording: Any, store: Path
) -> None:
    def lose() -> None:
        end_session(database)
        database.connection.connect()  # and DataJoint still believes that it is in one

    with suppress(Exception), database.connection.transaction:
        dj_npy.insert(recording, and_then(rows_of(5), lose))
        with pytest.raises(DuplicateError):
            dj_npy.insert(recording, rows_of(5))
    mend(database)
    assert_whole(recording, store, 5)
