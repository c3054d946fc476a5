import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import dj_npy
from dj_npy import NpyRef, settings
from dj_npy._array.cache import array_cache
from tests.support.processes import fork_and

Stored = Callable[..., NpyRef]


@pytest.fixture(autouse=True)
def room_for_two(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    gc.collect()
    assert array_cache._nbytes == 0, "another test holds a loaded reference"
    monkeypatch.setattr(settings, "memory", 2000)
    yield
    gc.collect()
    assert array_cache._nbytes == 0
    assert not array_cache._recent
    assert not array_cache._loading


def array() -> Any:
    return np.zeros(1000, np.uint8)


def test_the_most_recently_used_stay(stored: Stored) -> None:
    one, two, three = (stored(array(), n) for n in range(3))
    one.load()
    two.load()
    one.load()
    three.load()
    assert [ref.is_loaded for ref in (one, two, three)] == [True, False, True]


def test_what_is_in_use_stays_the_same_array(stored: Stored) -> None:
    refs = [stored(array(), n) for n in range(5)]
    held = [ref.load() for ref in refs]
    assert all(ref.is_loaded for ref in refs)
    assert all(ref.load() is kept for ref, kept in zip(refs, held, strict=True))
    views = [kept[10:] for kept in held]
    del held
    assert all(ref.is_loaded for ref in refs)
    del views
    assert sum(ref.is_loaded for ref in refs) == 2


def test_an_array_beyond_the_budget_stays_only_while_in_use(stored: Stored) -> None:
    ref = stored(np.zeros(5000, np.uint8))
    kept = ref.load()
    assert ref.load() is kept
    del kept
    assert not ref.is_loaded


@pytest.mark.parametrize("nbytes", [2001, 5000])
def test_an_array_beyond_the_budget_drives_out_nothing(stored: Stored, nbytes: int) -> None:
    small = [stored(array(), n) for n in range(2)]
    for ref in small:
        ref.load()
    large = stored(np.zeros(nbytes, np.uint8), 2)
    for _ in range(2):
        large.load()
        dj_npy.load([large])
    assert [ref.is_loaded for ref in (*small, large)] == [True, True, False]


def test_what_could_not_be_kept_is_kept_once_there_is_room(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = stored(np.zeros(5000, np.uint8))
    held = ref.load()
    monkeypatch.setattr(settings, "memory", 5000)
    assert ref.load() is held
    del held
    assert ref.is_loaded


def test_an_array_of_just_the_budget_is_kept_alone(stored: Stored) -> None:
    small, whole = stored(array()), stored(np.zeros(2000, np.uint8), 2)
    small.load()
    whole.load()
    assert (small.is_loaded, whole.is_loaded) == (False, True)


def test_no_budget_keeps_nothing(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "memory", 0)
    ref = stored(array())
    ref.load()
    assert not ref.is_loaded
    ref.load()


def test_an_array_goes_with_its_reference(stored: Stored) -> None:
    ref = stored(array())
    gone = weakref.ref(ref.load())
    del ref
    assert gone() is None


def test_unload_gives_the_room_back(stored: Stored) -> None:
    refs = [stored(array(), n) for n in range(3)]
    refs[0].load()
    refs[1].load()
    refs[0].unload()
    refs[2].load()
    assert [ref.is_loaded for ref in refs] == [False, True, True]


def test_threads_that_ask_together_read_once(stored: Stored, opened: list[str]) -> None:
    ref = stored(array())
    together = threading.Barrier(8)
    found: list[Any] = []

    def load() -> None:
        together.wait()
        found.append(ref.load())

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1
    assert len({id(each) for each in found}) == 1


def test_a_failed_load_can_be_tried_again(stored: Stored, store: Any) -> None:
    ref = stored(array())
    os.rename(store / ref.path, store / "elsewhere")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            ref.load()
    os.rename(store / "elsewhere", store / ref.path)
    assert ref.load().size == 1000


def test_a_forked_child_loads_although_a_thread_of_the_parent_was_loading(stored: Stored) -> None:
    ref = stored(array())
    with array_cache._mutex:
        array_cache._loading[id(ref)] = threading.Lock()
        array_cache._loading[id(ref)].acquire()
        child = fork_and(lambda: ref.load().size == 1000)
        array_cache._loading.clear()
    assert child == 0
