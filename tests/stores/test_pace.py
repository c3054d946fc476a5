"""A store at a distance: as many requests in flight as help, and every byte right."""

import gc
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from dj_npy import NpyRef, settings
from dj_npy._array import reductions
from dj_npy._selection.parts import Part
from dj_npy._stores import Store, open_store, opening, pace, remote
from dj_npy._stores.fsspec import GenericStore
from dj_npy._stores.local.store import LocalStore
from dj_npy._stores.obstore import store as cloud_store
from dj_npy._stores.pace import Pace
from tests.support.arrays import same
from tests.support.conformance import create
from tests.support.faults import Fault, Proxy, Request, proxy_of
from tests.support.references import forget_stores
from tests.support.servers import S3Raw

DELAY_S = 0.05


class Far:
    """Does no harm to a request but to keep it waiting; counts how many wait at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = 0
        self.most: dict[str, int] = {"GET": 0, "PUT": 0}
        self.awaited: dict[str, int] = {}  # so many come at a time, however slow the machine is
        self.delay_s = DELAY_S
        self.refuses: Callable[[int], bool] = lambda number: False
        self.asked = self.refused = 0

    def __call__(self, request: Request) -> Fault:
        with self._lock:
            self._waiting += 1
            self.asked += 1
            most = max(self.most.get(request.method, 0), self._waiting)
            self.most[request.method] = most
            refused = self.refuses(self.asked)
            self.refused += refused
        time.sleep(self.delay_s)
        until = time.monotonic() + 5
        awaited = self.awaited.get(request.method, 0)
        while (
            self._waiting > 3 and self.most[request.method] < awaited and time.monotonic() < until
        ):
            time.sleep(0.01)
        with self._lock:
            self._waiting -= 1
        return Fault(status=503) if refused else Fault()

    @contextmanager
    def near(self) -> Iterator[None]:
        """What is prepared need not be waited for; what is learnt from it, is forgotten."""
        self.delay_s = 0
        yield
        self.delay_s = DELAY_S
        forget_stores()


@pytest.fixture
def proxy(moto: str) -> Iterator[Proxy]:
    with proxy_of(moto) as proxy:
        yield proxy


@pytest.fixture
def far(proxy: Proxy) -> Far:
    proxy.harm = far = Far()
    return far


ROWS = np.random.default_rng(0).standard_normal((20_000, 5))


@pytest.fixture
def scattered(
    stored: Callable[..., NpyRef], far: Far, s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> NpyRef:
    """`ROWS` in a far store, of which every row is a request."""
    monkeypatch.setattr(settings, "merge_gap", 0)
    monkeypatch.setattr(settings, "load_below", 0)
    ref = stored(ROWS, store=s3)
    assert same(ref[:3], ROWS[:3])
    far.most["GET"] = 0
    return ref


def chosen(count: int) -> Any:
    return np.random.default_rng(1).integers(0, len(ROWS), count)


def test_the_delay_is_the_least_of_late() -> None:
    learned = Pace()
    assert not learned.is_far
    for delay in (0.1, 0.03, 0.2):
        learned.answered(delay)
    assert learned.delay_s == 0.03
    assert learned.is_far


def test_a_delay_is_not_believed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    learned, now = Pace(), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    learned.answered(0.001)
    now[0] += pace._WINDOW_S + 1
    learned.answered(0.1)
    assert learned.delay_s == 0.1


@pytest.mark.parametrize(
    ("delay", "in_flight"), [(0, 8), (0.0005, 8), (0.004, 8), (0.01, 20), (0.03, 60), (1, 64)]
)
def test_more_are_in_flight_the_farther_it_is(delay: float, in_flight: int) -> None:
    learned = Pace()
    learned.answered(delay)
    assert learned.in_flight == in_flight
    assert learned.is_far == (in_flight > 8)


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("nbytes", [1, 1 << 20, (16 << 20) + 1, 1 << 30, 10 << 40])
def test_parts_cover_a_file_and_are_neither_many_nor_small(delay: float, nbytes: int) -> None:
    learned = Pace()
    learned.answered(delay)
    part = learned.part(nbytes)
    assert part * learned.in_flight >= nbytes
    assert part >= 1 << 20


def test_a_large_array_is_read_by_many_requests(
    stored: Callable[..., NpyRef], far: Far, s3: dict[str, Any]
) -> None:
    array = np.random.default_rng(0).standard_normal((3 << 18, 5))
    ref = stored(array, store=s3)
    forget_stores()
    far.most["GET"] = 0
    far.awaited["GET"] = 9
    assert same(ref.load(), array)
    assert far.most["GET"] > 8


def test_many_rows_are_asked_for_at_once(scattered: NpyRef, far: Far) -> None:
    rows = chosen(400)
    far.awaited["GET"] = 25
    assert same(scattered[rows], ROWS[rows])
    assert far.most["GET"] > 24
    assert not scattered.is_loaded


@pytest.mark.parametrize("reading", [dj_npy.load, dj_npy.stream])
def test_small_arrays_are_asked_for_at_once(
    reading: Any, stored: Callable[..., NpyRef], far: Far, s3: dict[str, Any]
) -> None:
    arrays = [np.full((30, 3), n) for n in range(150)]
    with far.near():
        refs = [stored(array, n, store=s3) for n, array in enumerate(arrays)]
    far.most["GET"] = 0
    far.awaited["GET"] = 33
    assert all(map(same, reading(refs), arrays))
    assert far.most["GET"] > 32


def test_groups_of_small_arrays_have_no_more_in_flight_than_one_would(
    stored: Callable[..., NpyRef], far: Far, s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = stored(np.arange(3000.0), store=s3)
    assert dj_npy.load([ref])  # so the store is known to be far
    monkeypatch.setattr(pace, "_MOST_SMALL", 10)
    many = [NpyRef(ref._raw, ref._config) for _ in range(600)]  # in more than three groups
    far.most["GET"] = 0
    assert all(same(array, np.arange(3000.0)) for array in dj_npy.load(many))
    assert far.most["GET"] <= 10


def test_a_load_that_is_interrupted_leaves_no_thread_that_waits_for_answers(
    stored: Callable[..., NpyRef], far: Far, s3: dict[str, Any]
) -> None:
    ref = stored(np.arange(3000.0), store=s3)
    assert dj_npy.load([ref])
    of_others = waiting_threads()
    answered, stuck = threading.Event(), threading.Event()
    far.refuses = lambda number: stuck.set() or answered.wait(60)  # type: ignore[func-returns-value]
    me = threading.main_thread().ident
    assert me is not None

    def interrupt() -> None:
        stuck.wait(60)
        signal.pthread_kill(me, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    gc.collect()
    gc.disable()  # an interrupt that comes while it finalizes something is lost
    try:
        with pytest.raises(KeyboardInterrupt):
            dj_npy.load([NpyRef(ref._raw, ref._config) for _ in range(600)])
        until = time.monotonic() + 30
        while (left := waiting_threads() - of_others) and time.monotonic() < until:
            time.sleep(0.01)
        frames = sys._current_frames()
        assert [traceback.format_stack(frames.get(each.ident or 0)) for each in left] == []
    finally:
        gc.enable()
        answered.set()
        interrupter.join()


def waiting_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "dj-npy"}


def test_a_chunk_of_many_small_arrays_is_asked_for_at_once(
    stored: Callable[..., NpyRef], far: Far, s3: dict[str, Any]
) -> None:
    with far.near():
        refs = [stored(np.full(100, n), n, store=s3) for n in range(100)]
    assert dj_npy.load(refs[:1])  # so the store is known to be far
    far.most["GET"] = 0
    far.awaited["GET"] = 17
    chunk = dj_npy.to_dask(refs)
    assert chunk.numblocks == (1, 1)
    assert same(chunk.compute(), np.array([np.full(100, n) for n in range(100)]))
    assert far.most["GET"] > 16


def test_blocks_are_read_ahead_and_no_more_once_closed(
    stored: Callable[..., NpyRef], far: Far, s3: dict[str, Any]
) -> None:
    array = np.random.default_rng(0).standard_normal((3 << 18, 5))
    ref = stored(array, store=s3)
    assert same(ref[:10], array[:10])
    far.most["GET"] = 0
    with_all = list(ref.blocks("1 MiB"))
    assert same(np.concatenate(with_all), array)
    assert far.most["GET"] >= 8
    begun = ref.blocks("1 MiB")
    assert same(next(begun), with_all[0])
    begun.close()  # type: ignore[attr-defined]
    asked = far.asked
    time.sleep(4 * DELAY_S)
    assert far.asked == asked


def test_reductions_read_ahead(
    stored: Callable[..., NpyRef],
    far: Far,
    s3: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "memory", 0)
    monkeypatch.setattr(reductions, "_MAX_NBYTES", 1 << 20)
    array = np.random.default_rng(0).integers(0, 9, (3 << 18, 5))
    ref = stored(array, store=s3)
    assert same(ref[:10], array[:10])
    far.awaited["GET"] = 8
    for each, whole in ((ref, array), (ref.T, array.T)):
        far.most["GET"] = 0
        assert np.array_equal(each.sum(axis=0), whole.sum(axis=0))
        assert far.most["GET"] >= 8


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_rows_are_inserted_at_once(
    table: Any, database: Any, stores: dict[str, Any], far: Far, s3: dict[str, Any]
) -> None:
    database.config.stores = {**stores, "far": s3}
    recording = table("recording_id : int32\n---\nwaveform : <npy@far>")
    rows = [{"recording_id": n, "waveform": np.full(100, n)} for n in range(120)]
    far.most["PUT"] = 0
    far.awaited["PUT"] = 17
    dj_npy.insert(recording, rows)
    assert far.most["PUT"] > 16
    found = dj_npy.load(recording.to_dicts())
    assert all(same(row["waveform"], rows[row["recording_id"]]["waveform"]) for row in found)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_more_rows_are_inserted_at_once_where_all_were_written_promptly(
    table: Any,
    database: Any,
    stores: dict[str, Any],
    far: Far,
    s3: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database.config.stores = {**stores, "far": s3}
    recording = table("recording_id : int32\n---\nwaveform : <npy@far>")
    monkeypatch.setattr(pace, "_MOST", 8)  # this machine is no server for hundreds
    monkeypatch.setattr(Store, "workers", 4)
    monkeypatch.setattr(pace, "_PROMPT", 100)
    dj_npy.insert(recording, [{"recording_id": n, "waveform": np.full(100, n)} for n in range(200)])
    assert far.most["PUT"] > 12
    assert len(recording()) == 200


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_rows_are_verified_at_once(
    table: Any, database: Any, stores: dict[str, Any], far: Far, s3: dict[str, Any]
) -> None:
    database.config.stores = {**stores, "far": s3}
    recording = table("recording_id : int32\n---\nwaveform : <npy@far>")
    rows = [{"recording_id": n, "waveform": np.full(100, n)} for n in range(300)]
    with far.near():
        dj_npy.insert(recording, rows)
    far.most["GET"] = 0
    far.awaited["GET"] = 25
    assert dj_npy.verify(recording, headers=True).counts == {"as described": 300}
    assert far.most["GET"] > 24


@pytest.mark.parametrize(
    ("may_have_open", "in_flight"), [(16, 8), (128, 32), (256, 64), (5000, 256)]
)
def test_connections_take_a_quarter_of_the_files_that_may_be_open(
    may_have_open: int, in_flight: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = Pace()
    learned.answered(0.1)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (may_have_open, 1 << 20))
    assert learned.small_in_flight == in_flight
    assert learned.in_flight == min(in_flight, 64)
    unlimited = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (unlimited, unlimited))
    assert learned.small_in_flight == 256
    monkeypatch.setattr(pace, "resource", None)  # Windows
    assert learned.small_in_flight == 256


def test_rows_of_two_versions_are_not_returned(scattered: NpyRef, proxy: Proxy) -> None:
    odd = 128 + 7_000 * 40

    def harm(request: Request) -> Fault:
        """The odd one is answered after some and before others."""
        start = int((request.range or "bytes=0-").removeprefix("bytes=").split("-")[0])
        time.sleep(0.05 + 0.1 * (start >= odd) + 0.2 * (start > odd))
        return Fault(headers={"etag": '"another"'}) if start == odd else Fault()

    proxy.harm = harm
    with pytest.raises(dj_npy.ArrayCorruptError, match="changed while it was read"):
        scattered[::1000]


def test_rows_of_a_file_cut_short_are_not_returned(
    scattered: NpyRef, far: Far, moto: str, location: str
) -> None:
    raw = S3Raw(moto, location)
    raw.put(scattered.path, raw.get(scattered.path)[: 128 + 19_000 * 40 + 20])
    with pytest.raises(dj_npy.ArrayCorruptError, match="found 760148"):
        scattered[::1000]


def test_refused_requests_are_sent_again(scattered: NpyRef, far: Far) -> None:
    far.refuses = lambda number: number % 3 == 0
    rows = chosen(200)
    assert same(scattered[rows], ROWS[rows])
    assert far.refused > 50


def test_a_large_read_that_is_refused_tells_it(
    stored: Callable[..., NpyRef], far: Far, s3: dict[str, Any]
) -> None:
    array = np.random.default_rng(0).standard_normal((3 << 18, 5))
    ref = stored(array, store=s3)
    assert same(ref[:3], array[:3])
    learned = open_store(ref._config, ref.store).pace
    before = learned.small_in_flight
    far.refuses = lambda number: number % 4 == 0
    assert same(ref.load(), array)
    assert learned.small_in_flight < before


def test_bytes_bound_the_threads(stored: Callable[..., NpyRef], s3: dict[str, Any]) -> None:
    ref = stored(np.zeros(3), store=s3)
    cloud: Any = open_store(ref._config, ref.store)
    cloud.pace = Pace()
    for delay_s, threads, buffered in (
        (0.001, 8, 8),
        (0.01, 20, 20),
        (0.03, 60, 60),
        (0.1, 64, 64),
    ):
        cloud.pace._believed_until = 0
        cloud.pace.answered(delay_s)
        part = Part(0, cloud.limits.part, (memoryview(b""),))
        assert cloud._threads_for(part) == threads
        assert cloud._threads_for(part._replace(take=len)) == buffered
        assert buffered * part.nbytes <= 64 << 20


def test_small_files_are_not_read_together_where_that_fails(
    stored: Callable[..., NpyRef], s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = stored(np.zeros(3), store=s3)
    cloud: Any = open_store(ref._config, ref.store)
    assert cloud.together > 1
    for attribute, value in (("_ranges", False), ("_is_unmeasured", True)):
        with monkeypatch.context() as patched:
            patched.setattr(cloud, attribute, value)
            assert cloud.together == 1


def test_a_missing_object_tells_how_far_it_is(
    stored: Callable[..., NpyRef], far: Far, s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = stored(np.zeros(3), store=s3)
    store = open_store(ref._config, ref.store)
    monkeypatch.setattr(store, "pace", Pace())
    with pytest.raises(dj_npy.ArrayMissingError):
        store.stat("nothing.npy")
    assert store.is_far


def test_in_a_forked_child_a_store_learns_as_well(
    far: Far, s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "_forked", True)
    generic = opening._new_store("main", s3)
    assert type(generic) is GenericStore
    assert not generic.is_far
    path = create(generic, b"abc")
    assert generic.read_beginning(path, 3)[0] == b"abc"
    assert generic.is_far


@dataclass
class Bucket:
    """Lets through so many requests a second, and some at once."""

    rate: float = 200
    most: float = 20
    tokens: float = 20
    filled: float = field(default_factory=time.monotonic)

    def refuses(self, _: int) -> bool:
        now = time.monotonic()
        self.tokens = min(self.most, self.tokens + (now - self.filled) * self.rate)
        self.filled = now
        if self.tokens < 1:
            return True
        self.tokens -= 1
        return False


def test_a_server_that_limits_is_asked_for_less(scattered: NpyRef, far: Far) -> None:
    far.refuses = Bucket().refuses
    rows = chosen(500)
    assert same(scattered[rows], ROWS[rows])  # until it has settled
    far.asked = far.refused = 0
    assert same(scattered[rows], ROWS[rows])
    assert far.asked >= 400
    assert far.refused <= far.asked / 10


def test_a_server_that_limits_is_sent_fewer_writes(
    far: Far, s3: dict[str, Any], stored: Any
) -> None:
    ref = stored(np.zeros(3), store=s3)
    cloud: Any = open_store(ref._config, ref.store)
    cloud.pace._limit = 20.0  # which it would come to by itself, in a minute
    far.refuses = Bucket(rate=100).refuses

    def write(number: int) -> None:
        assert create(cloud, b"x" * 100, f"f/{number}") == f"f/{number}"

    with ThreadPoolExecutor(32) as pool:
        far.asked = far.refused = 0
        list(pool.map(write, range(200)))  # until it has settled
        assert far.refused > 0
        assert far.asked == 200 + far.refused  # and no request to see what a refused one did
        for begin in range(200, 1700, 300):  # a machine that pauses sends too many at once then
            far.asked = far.refused = 0
            list(pool.map(write, range(begin, begin + 300)))
            assert far.asked >= 300
            if far.refused <= far.asked / 10:
                break
    assert far.refused <= far.asked / 10


def test_as_many_more_are_written_as_were_answered_promptly() -> None:
    learned = Pace()
    assert type(settings).model_fields["max_workers"].default >= 256  # a smaller one would undo it
    learned.answered(0.1)
    assert learned.writes_in_flight == 64
    for times, seconds, then in [
        (64, 0.15, 128),
        (300, 0.15, 256),
        (100, 0.25, 156),
        (100, 0.25, 64),
    ]:
        for _ in range(times):
            learned.wrote(seconds)
        assert learned.writes_in_flight == then
    near = Pace()
    near.answered(0.01)
    near.wrote(0.01)
    assert near.writes_in_flight == near.in_flight == 20


def test_bytes_bound_the_parts_of_an_upload(
    far: Far, s3: dict[str, Any], stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "ONE_PUT", 1 << 20)
    monkeypatch.setattr(cloud_store, "BUFFERED", 2 * remote.PART)
    far.most["PUT"] = 0
    far.delay_s = 1.0  # longer than a slow machine takes to make two parts
    array = np.zeros((5, remote.PART >> 3))
    assert same(stored(array, store=s3).load(), array)
    assert far.most["PUT"] == 2


def test_after_a_refusal_half_as_many_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    learned, now = Pace(), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    learned.answered(0.03)
    assert (learned.small_in_flight, learned.in_flight) == (256, 60)
    for _ in range(5):  # of the same moment
        learned.refused()
    assert learned.small_in_flight == 128
    for most in (64, 32, 16, 8, 4, 2, 1, 1, 1):
        now[0] += 1
        learned.refused()
        assert (learned.small_in_flight, learned.in_flight) == (most, min(most, 60))
    for _ in range(1000):
        learned.accepted()
    assert 10 < learned.small_in_flight < 20
    now[0] += pace._FORGIVEN_S + 1
    assert learned.small_in_flight == 256


# A local store on a file server


@pytest.fixture
def on_a_file_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """To open a file seems to take 2 ms."""
    original = Pace.answered
    monkeypatch.setattr(Pace, "answered", lambda self, delay_s: original(self, 0.002))


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The threads that write files from now on."""
    found: set[int] = set()
    original = LocalStore._create

    def recording(self: Any, *args: Any) -> str:
        found.add(threading.get_ident())
        time.sleep(0.001)
        return original(self, *args)

    monkeypatch.setattr(LocalStore, "_create", recording)
    return found


def test_a_few_files_tell_whether_it_is_far(store: Path) -> None:
    local = LocalStore("main", str(store))
    assert (local.together, local.is_far, local.workers) == (8, False, 16)
    local.pace.answered(0.00002)
    assert (local.together, local.is_far, local.workers) == (64, False, 16)
    local = LocalStore("main", str(store))
    local.pace.answered(0.001)
    assert (local.together, local.is_far, local.workers) == (4, True, 64)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 200])
def test_many_files_of_a_file_server(
    stored: Callable[..., NpyRef],
    on_a_file_server: None,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    arrays = [np.full((30, 3), n) for n in range(count)]
    refs = [stored(array, n) for n, array in enumerate(arrays)]
    forget_stores()
    groups: list[int] = []
    original = LocalStore._read_files

    def recording(self: Any, files: Any) -> Any:
        every = list(files)
        groups.append(len(every))
        return original(self, every)

    monkeypatch.setattr(LocalStore, "_read_files", recording)
    assert all(map(same, dj_npy.load(refs), arrays))
    assert groups[0] == min(count, 8)  # until it is known how far they are
    assert all(size <= 4 for size in groups[1:])
    assert sum(groups) == count
    assert all(map(same, dj_npy.stream(refs), arrays))


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_plain_insert_writes_side_by_side(
    recording: Any, on_a_file_server: None, writers: set[int]
) -> None:
    rows = [{"recording_id": n, "waveform": np.full(100, n)} for n in range(60)]
    recording.insert(rows[:1])
    assert writers == {threading.get_ident()}
    recording.insert(rows[1:])
    assert len(writers) > 2
    found = recording.to_dicts(order_by="recording_id")
    assert all(same(row["waveform"].load(), rows[n]["waveform"]) for n, row in enumerate(found))


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("refused", ["value", "duplicate"])
def test_a_plain_insert_that_is_refused_leaves_no_file(
    recording: Any, store: Path, on_a_file_server: None, writers: set[int], refused: str
) -> None:
    recording.insert1({"recording_id": 0, "waveform": np.zeros(3)})
    last = np.array([object()]) if refused == "value" else np.zeros(3)
    rows = [{"recording_id": n, "waveform": np.full(100, n)} for n in range(1, 60)]
    rows.append({"recording_id": 0 if refused == "duplicate" else 99, "waveform": last})
    with pytest.raises(dj.DataJointError):
        recording.insert(rows)
    assert len(writers) > 2
    assert len(recording()) == 1
    files = [path.name for path in store.rglob("*.npy")]
    assert len(files) == 1


def test_near_a_plain_insert_uses_no_threads(recording: Any, near: None, writers: set[int]) -> None:
    recording.insert({"recording_id": n, "waveform": np.full(100, n)} for n in range(5))
    recording.insert([{"recording_id": n, "waveform": np.full(100, n)} for n in range(5, 9)])
    assert writers == {threading.get_ident()}


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_the_setting_is_an_upper_bound(
    recording: Any, on_a_file_server: None, writers: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "max_workers", 2)
    rows = [{"recording_id": n, "waveform": np.full(100, n)} for n in range(60)]
    recording.insert1(rows[0])  # the first has the store marked, in this thread
    writers.clear()
    dj_npy.insert(recording, rows[1:])
    assert len(writers) == 2


def test_many_large_arrays_share_the_threads(
    stored: Callable[..., NpyRef], far: Far, s3: dict[str, Any]
) -> None:
    array = np.random.default_rng(0).standard_normal((3 << 18, 5))
    refs = [stored(array, n, store=s3) for n in range(3)]
    far.awaited["GET"] = 17
    assert same(refs[0].load(), array)
    alone, far.most["GET"] = far.most["GET"], 0
    assert alone > 16
    far.awaited["GET"] = 9
    assert all(same(found, array) for found in dj_npy.stream(refs[1:]))
    assert 8 < far.most["GET"] <= 2 * 16
