"""``mmap_mode="r+"`` of a remote file: changes come back, or it is said where they are."""

import gc
import json
import logging
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dj_npy import ArrayCorruptError, NpyRef, StoreError, settings
from dj_npy._stores import Store, open_store
from tests.array.test_parts import at
from tests.support import warm
from tests.support.faults import Fault, Proxy, proxy_of
from tests.support.servers import BUCKET, AzureRaw, S3Raw, s3_client, s3_settings
from tests.support.users import cache_of_mine

Stored = Callable[..., NpyRef]
A = np.arange(600.0).reshape(200, 3)


@pytest.fixture
def proxy(moto: str) -> Iterator[Proxy]:
    with proxy_of(moto) as proxy:
        yield proxy


@pytest.fixture
def azure(azurite: str, location: str) -> dict[str, Any]:
    known = {"connection_string": azurite, "container": BUCKET}
    return {"protocol": "azure", "location": location, **known}


@pytest.fixture(params=["s3", "azure"])
def store_settings(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def copies() -> list[Path]:
    return sorted((cache_of_mine() / "changed").glob("*"))


def fresh(ref: NpyRef) -> Any:
    """What is in the store now."""
    return NpyRef(ref._raw, ref._config).load()


def test_changes_are_in_the_store_after_flush(stored: Stored, store_settings: Any) -> None:
    ref = stored(A, store=store_settings)
    before = ref.load()
    mapped: Any = ref.load(mmap_mode="r+")
    assert isinstance(mapped, np.memmap)
    assert not ref.is_loaded  # the change is to be seen
    mapped[5] = 99
    assert np.array_equal(fresh(ref), A)
    mapped.flush()
    assert (fresh(ref)[5] == 99).all()
    mapped[6] = 98
    view: Any = mapped[7:9]
    view.flush()  # a view's flush is its map's
    changed = fresh(ref)
    assert (changed[5:7, 0] == [99, 98]).all()
    assert np.array_equal(np.delete(changed, [5, 6], 0), np.delete(A, [5, 6], 0))
    assert np.array_equal(before, A)
    assert ref.verify() == "changed since insert"
    del mapped, view
    assert copies() == []


def test_a_map_that_goes_away_is_written_back(stored: Stored, store_settings: Any) -> None:
    ref = stored(A, store=store_settings)
    mapped: Any = ref.load(mmap_mode="r+")
    view = np.asarray(mapped[5:])
    view[0] = 99
    del mapped
    gc.collect()
    assert np.array_equal(fresh(ref), A)  # a view is left
    assert len(copies()) == 1
    del view
    assert (fresh(ref)[5] == 99).all()
    assert copies() == []


def test_what_was_not_changed_is_not_written(stored: Stored, s3: Any, proxy: Proxy) -> None:
    ref = stored(A, store=s3)
    mapped: Any = ref.load(mmap_mode="r+")
    mapped[:] = A
    proxy.requests.clear()
    mapped.flush()
    del mapped
    assert proxy.asked("PUT") == []
    assert copies() == []
    assert ref.verify() == "as inserted"


def test_a_flush_is_one_request(stored: Stored, s3: Any, proxy: Proxy) -> None:
    mapped: Any = stored(A, store=s3).load(mmap_mode="r+")
    for n in range(3):
        proxy.requests.clear()
        mapped[n] = 99
        mapped.flush()
        assert [request.method for request in proxy.requests] == ["PUT"]


def test_an_object_changed_meanwhile_is_not_overwritten(
    stored: Stored, store_settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ref = stored(A, store=store_settings)
    one: Any = ref.load(mmap_mode="r+")
    other: Any = ref.load(mmap_mode="r+")
    one[0] = 1
    other[0] = 2
    one.flush()
    with pytest.raises(StoreError, match="changed or removed since it was mapped") as caught:
        other.flush()
    assert (fresh(ref)[0] == 1).all()
    one[1] = 1  # and the first may go on
    one.flush()
    kept = next(path for path in copies() if str(path) in str(caught.value))
    assert (np.load(kept)[0] == 2).all()
    with caplog.at_level(logging.ERROR):
        del other, caught  # whose traceback holds the map, too
    assert "were not written back" in caplog.text
    assert str(kept) in caplog.text
    assert (np.load(kept)[0] == 2).all()
    assert (fresh(ref)[:2] == 1).all()
    del one
    assert copies() == [kept]


def test_an_object_removed_meanwhile_does_not_come_back(stored: Stored, s3: Any) -> None:
    ref = stored(A, store=s3)
    mapped: Any = ref.load(mmap_mode="r+")
    mapped[0] = 1
    opened(ref).remove(ref.path)
    with pytest.raises(StoreError, match=r"removed since it was mapped.*changed array is in"):
        mapped.flush()


def opened(ref: NpyRef) -> Store:
    return open_store(ref._config, ref.store)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("fault", [Fault(lose=True), Fault(late=500), Fault(reset=True)])
def test_an_answer_that_is_lost_is_no_change_of_someone_else_s(
    stored: Stored, s3: Any, proxy: Proxy, fault: Fault
) -> None:
    ref = stored(A, store=s3)
    mapped: Any = ref.load(mmap_mode="r+")
    for n in range(3):
        mapped[n] = 77
        proxy.times(1, fault, "PUT")
        mapped.flush()
        assert (fresh(ref)[: n + 1] == 77).all()


@pytest.mark.usefixtures("impatient")
def test_a_store_that_is_gone_says_where_the_changes_are(
    stored: Stored, s3: Any, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    ref = stored(A, store=s3)
    mapped: Any = ref.load(mmap_mode="r+")
    mapped[3] = 33
    proxy.harm = lambda request: Fault(status=503)
    with pytest.raises(StoreError, match="The changed array is in"):
        mapped.flush()
    with caplog.at_level(logging.ERROR):
        del mapped
    (kept,) = copies()
    assert str(kept) in caplog.text
    assert (np.load(kept)[3] == 33).all()


def test_a_damaged_object_is_told_from_a_changed_one(
    stored: Stored, store_settings: Any, azurite: str, moto: str, location: str
) -> None:
    ref = stored(A, store=store_settings)
    mapped: Any = ref.load(mmap_mode="r+")
    mapped[0] = 1
    mapped.flush()
    assert ref.verify() == "changed since insert"
    on_s3 = store_settings["protocol"] == "s3"
    raw = S3Raw(moto, location) if on_s3 else AzureRaw(azurite, location)
    contents = bytearray(raw.get(ref.path))
    contents[-1] ^= 1
    raw.put(ref.path, bytes(contents))
    with pytest.raises(ArrayCorruptError, match="other bytes than were inserted"):
        ref.verify()


def test_damage_after_a_change_is_damage(stored: Stored, s3: Any, location: str, moto: str) -> None:
    from dj_npy._stores.obstore.store import CHANGED

    ref = stored(A, store=s3)
    mapped: Any = ref.load(mmap_mode="r+")
    mapped[0] = 1
    mapped.flush()
    raw = S3Raw(moto, location)
    contents = bytearray(raw.get(ref.path))
    contents[-1] ^= 1
    client, where = s3_client(moto), {"Bucket": BUCKET, "Key": f"{location}/{ref.path}"}
    found = client.head_object(**where)["Metadata"]
    assert found[CHANGED].startswith("xxh3_128:")
    client.put_object(**where, Body=bytes(contents), Metadata=found)
    with pytest.raises(ArrayCorruptError, match="since it was last changed"):
        ref.verify()


@pytest.mark.parametrize("array", [np.zeros((0, 3)), np.array(1.5), np.asfortranarray(A)])
def test_any_shape_and_order(stored: Stored, s3: Any, array: Any) -> None:
    ref = stored(array, store=s3)
    mapped: Any = ref.load(mmap_mode="r+")
    assert np.array_equal(mapped, array)
    mapped[...] = 7
    mapped.flush()
    assert (fresh(ref) == 7).all()


def test_a_store_that_ignores_conditions_refuses_before_anything_is_changed(
    stored: Stored, rclone: str, location: str
) -> None:
    ref = stored(A, store=s3_settings(rclone, location=location))
    with pytest.raises(StoreError, match=r"r\+.*cannot replace an object on the condition"):
        ref.load(mmap_mode="r+")
    assert copies() == []
    assert ref.verify() == "as inserted"


def test_a_forked_child_s_store_refuses(
    stored: Stored, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = stored(A, store=s3)
    monkeypatch.setattr("dj_npy._stores.opening._forked", True)
    with pytest.raises(StoreError, match="cannot replace an object on the condition"):
        at(ref, {**s3, "secure": False}).load(mmap_mode="r+")


def test_an_object_too_large_for_one_request_is_refused(
    stored: Stored, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = stored(A, store=s3)
    monkeypatch.setattr("dj_npy._stores.remote.MAX_PUT", 1000)
    with pytest.raises(StoreError, match="one request"):
        ref.load(mmap_mode="r+")
    assert copies() == []


def test_a_file_that_is_not_the_row_s_leaves_no_copy(
    stored: Stored, s3: Any, moto: str, location: str
) -> None:
    ref = stored(A, store=s3)
    S3Raw(moto, location).put(ref.path, b"something else")
    with pytest.raises(ArrayCorruptError):
        ref.load(mmap_mode="r+")
    assert copies() == []


def test_the_copy_is_private(stored: Stored, s3: Any) -> None:
    mapped = stored(A, store=s3).load(mmap_mode="r+")
    (copy,) = copies()
    assert copy.stat().st_mode & 0o777 == 0o600
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    del mapped


def test_a_forked_child_that_ends_writes_nothing_back(stored: Stored, s3: Any) -> None:
    ref = stored(A, store=s3)
    mapped: Any = ref.load(mmap_mode="r+")
    mapped[0] = 1
    if not (child := os.fork()):
        del mapped
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(fresh(ref), A)
    assert len(copies()) == 1
    mapped.flush()
    assert (fresh(ref)[0] == 1).all()


def test_threads_that_flush_at_once(stored: Stored, s3: Any) -> None:
    ref = stored(A, store=s3)
    mapped: Any = ref.load(mmap_mode="r+")
    failures: list[BaseException] = []

    def change(me: int) -> None:
        try:
            for n in range(3):
                mapped[me * 3 + n] = me
                mapped.flush()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=change, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    mapped.flush()
    assert np.array_equal(fresh(ref)[:12, 0], np.repeat(np.arange(4), 3))
    assert ref.verify() == "changed since insert"


CHILD = """
import json, sys, time
from types import SimpleNamespace
import dj_npy
dj_npy.settings.cache_dir = sys.argv[3]
stores = {"default": "main", "main": json.loads(sys.argv[1])}
config = SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(stores[name]))
ref = dj_npy.NpyCodec().decode(json.loads(sys.argv[2]), context={"config": config})
mapped = ref.load(mmap_mode="r+")
mapped[5] = 55
"""


def child(ref: NpyRef, s3: Any, then: str) -> warm.Program:
    arguments = [json.dumps(s3), json.dumps(ref._raw), str(settings.cache_dir)]
    return warm.Program("-c", CHILD + then, *arguments)


def test_a_process_that_ends_without_flush_has_written_back(stored: Stored, s3: Any) -> None:
    ref = stored(A, store=s3)
    _, told = child(ref, s3, "").communicate(timeout=60)
    assert (fresh(ref)[5] == 55).all(), told
    assert copies() == []
    assert ref.verify() == "changed since insert"


def test_a_process_that_ends_with_an_error_has_too(stored: Stored, s3: Any) -> None:
    ref = stored(A, store=s3)
    _, told = child(ref, s3, "raise SystemExit(3)").communicate(timeout=60)
    assert (fresh(ref)[5] == 55).all(), told


def test_a_process_that_cannot_write_back_says_where_the_changes_are(
    stored: Stored, s3: Any, moto: str, location: str
) -> None:
    ref = stored(A, store=s3)
    process = child(ref, s3, "print('changed', flush=True); sys.stdin.readline()")
    assert process.stdout.readline() == "changed\n"
    opened(ref).remove(ref.path)
    _, told = process.communicate(timeout=60)
    (kept,) = copies()
    assert "were not written back" in told
    assert str(kept) in told
    assert (np.load(kept)[5] == 55).all()


def test_changes_of_a_killed_process_are_kept_and_told_of(
    stored: Stored, s3: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ref = stored(A, store=s3)
    process = child(ref, s3, "print('changed', flush=True); time.sleep(60)")
    assert process.stdout.readline() == "changed\n"
    process.kill()
    process.communicate()
    (kept,) = copies()
    assert (np.load(kept)[5] == 55).all()
    assert np.array_equal(fresh(ref), A)
    with caplog.at_level(logging.WARNING):
        mapped = ref.load(mmap_mode="r+")
    assert str(kept) in caplog.text
    assert "never written back" in caplog.text
    del mapped
    assert copies() == [kept]
    caplog.clear()
    other = stored(A, 2, store=s3).load(mmap_mode="r+")
    assert str(kept) not in caplog.text
    del other


# What a review found


def test_flush_in_a_forked_child_is_refused(stored: Stored, s3: Any) -> None:
    ref = stored(A, store=s3)
    mapped: Any = ref.load(mmap_mode="r+")
    if not (child := os.fork()):
        signal.alarm(20)
        mapped[4] = 44
        try:
            mapped.flush()
        except StoreError as error:
            os._exit(7 if "forked" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    mapped.flush()  # with what the child has changed
    assert (fresh(ref)[4] == 44).all()


def test_a_cleared_cache_does_not_take_the_changes_along(
    stored: Stored, s3: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ref = stored(A, store=s3)
    mapped: Any = ref.load(mmap_mode="r+")
    mapped[0] = 1
    shutil.rmtree(settings.cache_dir)
    mapped.flush()
    assert (fresh(ref)[0] == 1).all()
    mapped[1] = 2
    opened(ref).remove(ref.path)
    with caplog.at_level(logging.ERROR):
        del mapped
    saved = re.findall(r"changed array is in '([^']+)'", caplog.text)
    assert len(saved) == 1
    assert (np.load(saved[0])[1] == 2).all()
    os.unlink(saved[0])


def test_a_relative_cache_folder_is_told_in_full(
    stored: Stored, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = stored(A, store=s3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "cache_dir", Path("relative"))
    mapped: Any = ref.load(mmap_mode="r+")
    monkeypatch.chdir("/")
    mapped[0] = 1
    opened(ref).remove(ref.path)
    with pytest.raises(StoreError, match=f"in '{tmp_path}/relative/user-{os.geteuid()}/changed/"):
        mapped.flush()
    del mapped


def test_an_interrupted_flush_is_no_change_of_someone_else_s(
    stored: Stored, s3: Any, proxy: Proxy
) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(*_: Any) -> None:
        raise Interrupted

    ref = stored(A, store=s3)
    mapped: Any = ref.load(mmap_mode="r+")
    mapped[0] = 1
    proxy.harm = lambda request: Fault(slow=1 if request.method == "PUT" else 0)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(Interrupted):
            mapped.flush()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    proxy.harm = lambda request: Fault()
    for _ in range(100):
        if (fresh(ref)[0] == 1).all():
            break
        time.sleep(0.05)
    mapped.flush()  # it is there already
    mapped[1] = 2
    mapped.flush()
    assert (fresh(ref)[:2, 0] == [1, 2]).all()


DEADLOCK = """
import gc, logging
class Handler(logging.StreamHandler):
    def emit(self, record):
        gc.collect()
        super().emit(record)
logging.basicConfig(handlers=[Handler()])
opened = dj_npy._stores.open_store(config, "main")
opened.remove(ref.path)
cycle = [mapped]
cycle.append(cycle)
gc.disable()
del mapped, cycle
logging.getLogger("app").error("hello")
"""


def test_a_map_may_go_away_within_the_log(stored: Stored, s3: Any) -> None:
    ref = stored(A, store=s3)
    process = child(ref, s3, DEADLOCK)
    try:
        _, told = process.communicate(timeout=30)
    finally:
        process.kill()
    assert "hello" in told
    assert told.count("The changed array is in") == 1


def test_another_s_change_to_what_we_once_wrote_is_not_overwritten(
    stored: Stored, store_settings: Any
) -> None:
    ref = stored(A, store=store_settings)
    one: Any = ref.load(mmap_mode="r+")
    for value in (1, 2):
        one[0] = value
        one.flush()
    other: Any = ref.load(mmap_mode="r+")
    other[0] = 1  # the very bytes of our first flush
    other.flush()
    one[5] = 7
    with pytest.raises(StoreError, match="changed or removed since it was mapped"):
        one.flush()
    assert np.array_equal(fresh(ref), other)


IN_THREADING = """
import gc, threading
for k in range(1, 15):
    gc.collect()
    gc.disable()
    mapped = ref.load(mmap_mode="r+")
    mapped[0] = k
    cycle = [mapped]
    cycle.append(cycle)
    del mapped, cycle
    gc.set_threshold(gc.get_count()[0] + k)
    gc.enable()
    for _ in range(3):
        threading.enumerate()
    gc.set_threshold(700)
gc.collect()
print("done")
"""


def test_a_map_may_go_away_within_the_locks_of_threading(stored: Stored, s3: Any) -> None:
    process = child(stored(A, store=s3), s3, IN_THREADING)
    try:
        told, _ = process.communicate(timeout=40)
    finally:
        process.kill()
    assert told == "done\n"


def test_what_another_thread_changes_during_a_flush_is_not_lost(stored: Stored, s3: Any) -> None:
    array = np.zeros(4_000_000)
    ref = stored(array, store=s3)
    mapped: Any = ref.load(mmap_mode="r+")
    for n in range(0, 8, 2):

        def change(n: int = n) -> None:
            time.sleep(0.004 * n)
            mapped[-2] = 7

        mapped[-1] = n + 1
        thread = threading.Thread(target=change)
        thread.start()
        mapped.flush()
        thread.join()
        assert ref.verify() == "changed since insert"
        mapped[-2] = 0
        mapped.flush()
        assert ref[-2] == 0


INTERRUPTED = """
import os, signal, threading
from dj_npy import StoreError
from dj_npy._array.workingcopy import WorkingCopy
def slow(self):
    time.sleep(1.5)
    raise StoreError("the server is gone")
WorkingCopy._write_back = slow
threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
del mapped
"""


def test_ctrl_c_while_a_dropped_map_is_written_back(stored: Stored, s3: Any) -> None:
    ref = stored(A, store=s3)
    _, told = child(ref, s3, INTERRUPTED).communicate(timeout=40)
    (kept,) = copies()
    assert f"the server is gone. The changed array is in '{kept}'" in told


# Local stores


def test_a_local_file_that_was_changed_is_told_from_a_damaged_one(
    stored: Stored, store: Path
) -> None:
    ref, damaged = stored(A), stored(A, 2)
    mapped: Any = ref.load(mmap_mode="r+")
    assert ref.verify() == "as inserted"
    mapped[0] = 1
    assert ref.verify() == "changed since insert"  # at once
    with (store / damaged.path).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    with pytest.raises(ArrayCorruptError, match="other bytes than were inserted"):
        damaged.verify()


def test_where_files_have_no_attributes_a_change_cannot_be_told(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    ref = stored(A)
    mapped: Any = ref.load(mmap_mode="r+")
    mapped[0] = 1
    with pytest.raises(ArrayCorruptError, match="Unless it was changed on purpose"):
        ref.verify()


def test_a_private_map_changes_nothing(stored: Stored, s3: Any) -> None:
    for ref in (stored(A), stored(A, 2, store=s3)):
        mapped = ref.load(mmap_mode="c")
        mapped[:] = 0
        del mapped
        assert np.array_equal(fresh(ref), A)
        assert ref.verify() == "as inserted"
