"""Parts of arrays: as NumPy gives them, with no more requests and bytes than they need."""

import gc
import io
import os
import resource
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datajoint.builtin_codecs.npy import NpyCodec as BuiltinNpyCodec
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

import dj_npy
from benchmarks._measure import peak_memory
from dj_npy import ArrayCorruptError, ArrayInvalidError, ArrayMissingError, NpyRef, settings
from dj_npy._array import openfiles
from dj_npy._format import npyfile
from dj_npy._stores.pace import Pace
from tests.support import warm
from tests.support.arrays import same
from tests.support.faults import Fault, Proxy, Request, proxy_of
from tests.support.indexes import as_numpy, indexes, outcome, pairs
from tests.support.processes import fork_and
from tests.support.servers import S3Raw, s3_settings

Stored = Callable[..., NpyRef]
PAIRS = int(os.environ.get("DJ_NPY_TEST_PAIRS", "8000"))
PAIRS_ON_S3 = int(os.environ.get("DJ_NPY_TEST_PAIRS_ON_S3", "500"))
PER_ARRAY = 20


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No array is so small that it is loaded whole."""
    monkeypatch.setattr(settings, "load_below", 0)
    monkeypatch.setattr(settings, "load_share", 1000)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Start and length of every read of a local file from now on."""
    runs: list[tuple[int, int]] = []
    original = os.preadv

    def recording(descriptor: int, buffers: Any, position: int) -> int:
        count = original(descriptor, buffers, position)
        runs.append((position, count))
        return count

    monkeypatch.setattr(os, "preadv", recording)
    return runs


def ranges(proxy: Proxy) -> list[tuple[int, int]]:
    """Start and length of the ranges asked for, and of nothing else."""
    found = []
    for request in proxy.requests:
        assert request.method == "GET", request
        assert request.range, request
        first, last = request.range.removeprefix("bytes=").split("-")
        found.append((int(first), int(last) + 1 - int(first)))
    return sorted(found)


# NumPy is the oracle

many_pairs = hypothesis_settings(
    max_examples=PAIRS // PER_ARRAY,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def many_indexes(draw: st.DrawFn) -> Any:
    """An array and many indexes of it."""
    array, first = draw(pairs())
    return array, [first, *(draw(indexes(array.shape)) for _ in range(PER_ARRAY - 1))]


def check(array: Any, index: Any, ref: NpyRef) -> bool:
    """Whether `ref` gives what NumPy gives; true if that is no exception."""
    expected, found = outcome(index, array), outcome(index, ref)
    if isinstance(expected, type):
        assert found is expected, (index, found, expected)
        return False
    assert as_numpy(found, expected), (index, found, expected)
    return bool(np.asarray(found).nbytes)


@pytest.mark.slow
@many_pairs
@given(many_indexes(), st.integers(0, 10**12))
def test_every_index_gives_what_numpy_gives(
    stored: Stored, in_parts: None, read: list[Any], each: Any, number: int
) -> None:
    array, some = each
    ref = stored(array, number)
    for index in some:
        read.clear()
        needs_data = check(array, index, ref)
        assert needs_data == bool(read)  # a bad or an empty index needs nothing at all
        expected = outcome(index, array)
        if not isinstance(expected, type):
            # A scalar is in the machine's byte order; a field, which has a name, has its own dtype.
            names = index if isinstance(index, list) and index else [index]
            is_field = all(isinstance(name, str) for name in names)
            out = np.zeros(np.shape(expected), expected.dtype if is_field else array.dtype)
            assert ref.read(index, out=out) is out
            assert as_numpy(out if isinstance(expected, np.ndarray) else out[()], expected)
    assert not ref.is_loaded


@hypothesis_settings(many_pairs, max_examples=PAIRS_ON_S3 // PER_ARRAY)
@given(many_indexes(), st.integers(0, 10**12))
def test_every_index_gives_what_numpy_gives_on_s3(
    stored: Stored,
    in_parts: None,
    proxy: Proxy,
    moto: str,
    location: str,
    monkeypatch: pytest.MonkeyPatch,
    each: Any,
    number: int,
) -> None:
    monkeypatch.setattr(settings, "merge_gap", 40)
    monkeypatch.setattr(settings, "range_bytes", 100)
    array, some = each
    ref = stored(array, number, store=s3_settings(moto, location=location))
    # From a near store and a far one; of our rows and the built-in codec's.
    monkeypatch.setattr(Pace, "is_far", number % 2 == 1)
    ref = at(ref, s3_settings(proxy.endpoint, location=location), plain=number % 3 == 0)
    for index in some:
        proxy.requests.clear()
        needs_data = check(array, index, ref)
        assert needs_data == bool(proxy.requests)
        ranges(proxy)
    assert not ref.is_loaded


def at(ref: NpyRef, store: dict[str, Any], *, plain: bool = False) -> NpyRef:
    """The same row, read from a store of these settings; or as the built-in codec writes it."""
    row = ref._raw
    if plain:
        row = {key: row[key] for key in ("path", "store", "dtype", "shape")}
    stores: dict[str, Any] = {"default": "main", "main": store}
    config = SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(stores[name]))
    return dj_npy.NpyCodec().decode(row, context={"config": config})


RECORDS = np.zeros(1000, [("x", "f8"), ("y", "i4", (2, 3)), ("z", "S3")])
RECORDS["x"], RECORDS["y"] = np.arange(1000), np.arange(6000).reshape(1000, 2, 3)


@pytest.mark.parametrize("fields", ["x", "y", ["z", "x"], "no", ["x", "no"], ("x", 1)])
def test_fields(stored: Stored, in_parts: None, fields: Any) -> None:
    check(RECORDS, fields, stored(RECORDS))
    assert same(stored(RECORDS, 2).read("y"), RECORDS["y"].copy())
    assert as_numpy(stored(RECORDS, 3)[7], RECORDS[7])


def test_what_is_in_memory_is_not_given_away(stored: Stored, read: list[Any]) -> None:
    """Whether an array was loaded, or is small enough to be, shows in nothing but the time."""
    array = np.arange(12.0).reshape(3, 4)
    for ref in (stored(array), stored(RECORDS, 2)):
        before = ref.load().copy()
        for index in (np.s_[1:], np.s_[...], np.s_[1], np.s_[::-1], [0, 2], None):
            part = ref[index]
            assert as_numpy(part, before[index])
            assert not np.shares_memory(part, ref.load())
            if isinstance(part, np.void):
                part["x"] = 99
            else:
                part[...] = np.zeros((), part.dtype)
        assert same(ref.load(), before)
        for row in ref:
            assert not np.shares_memory(row, ref.load())


# How much is read

MANY = np.arange(4_000_000, dtype="i4").reshape(-1, 40)  # 16 MB in rows of 160 bytes


@pytest.fixture
def many(stored: Stored, moto: str, location: str, s3: dict[str, Any], proxy: Proxy) -> NpyRef:
    ref = at(stored(MANY, store=s3_settings(moto, location=location)), s3)
    _ = ref[0]  # the first request of a process asks S3 where the bucket is
    _ = ref[[0, -1]]
    proxy.requests.clear()
    return ref


def test_a_part_is_one_request_for_just_that(many: NpyRef, proxy: Proxy) -> None:
    assert same(many[5000:5100], MANY[5000:5100].copy())
    assert ranges(proxy) == [(128 + 5000 * 160, 100 * 160)]
    assert not many.is_loaded


@pytest.mark.parametrize(
    ("index", "requests"),
    [
        (np.s_[::50_000], 2),
        (np.s_[::800], 2),  # 128,000 bytes apart: merged, and cut at 8 MiB
        (np.s_[::830], 121),  # 132,800
        ([99_999, 3, 50_000, 3], 3),
        ([0, 820, 1640], 1),
        (np.s_[[1, 90_000], 5], 2),
        (np.s_[40_000:80_000], 1),
        (np.s_[:60_000:-1, 3:7], 1),
        (np.s_[-1], 1),
        (np.s_[-1, -1], 1),
        (np.s_[None, 7, ..., ::3], 1),
    ],
    ids=str,
)
def test_bytes_asked_for_are_those_needed_or_their_span(
    many: NpyRef, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, index: Any, requests: int
) -> None:
    monkeypatch.setattr(settings, "load_share", 1000)
    assert check(MANY, index, many)
    found = ranges(proxy)
    assert len(found) == requests
    numbers = np.unique(np.arange(MANY.size).reshape(MANY.shape)[index]) * 4
    far = np.flatnonzero(np.diff(numbers) - 4 > 128 << 10)
    spans = numbers[np.append(far, -1)] - numbers[np.append(0, far + 1)] + 4
    assert sum(nbytes for _, nbytes in found) <= spans.sum()


def test_a_large_part_is_cut(many: NpyRef, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "range_bytes", 1 << 20)
    assert same(many[:40_000], MANY[:40_000].copy())
    found = ranges(proxy)
    assert len(found) == 7
    assert max(nbytes for _, nbytes in found) == (1 << 20) // 160 * 160  # whole rows
    assert sum(nbytes for _, nbytes in found) == 6_400_000


@pytest.mark.parametrize("index", [100_000, (0, 40), "x", [100_000], 1.5, (0, 0, 0), [True]])
def test_a_bad_index_asks_for_nothing(many: NpyRef, proxy: Proxy, index: Any) -> None:
    assert isinstance(outcome(index, MANY), type)
    check(MANY, index, many)
    with pytest.raises(outcome(index, MANY)):
        many.read(index)
    assert proxy.requests == []


@pytest.mark.parametrize(
    "index", [np.s_[5:5], np.s_[:0], [], np.s_[:, 40:], np.zeros(100_000, bool)]
)
def test_an_empty_index_asks_for_nothing(many: NpyRef, proxy: Proxy, index: Any) -> None:
    assert not check(MANY, index, many)
    assert many.read(index).size == 0
    assert proxy.requests == []


def test_more_than_half_is_loaded_and_kept(many: NpyRef, proxy: Proxy) -> None:
    assert same(many[:50_000], MANY[:50_000].copy())
    assert not many.is_loaded
    proxy.requests.clear()
    assert same(many[:50_001], MANY[:50_001].copy())
    assert many.is_loaded
    assert sum(nbytes for _, nbytes in ranges(proxy)) == MANY.nbytes + 128
    proxy.requests.clear()
    assert same(many[:, 3], MANY[:, 3].copy())
    assert proxy.requests == []


def test_what_cannot_be_kept_is_not_loaded(
    many: NpyRef, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "memory", MANY.nbytes - 1)
    assert same(many[1:], MANY[1:].copy())
    assert not many.is_loaded
    assert sum(nbytes for _, nbytes in ranges(proxy)) == MANY[1:].nbytes


def test_a_small_array_is_loaded_and_kept(stored: Stored, opened: list[str]) -> None:
    small, larger = stored(np.zeros(1 << 17)), stored(np.zeros((1 << 17) + 1), 2)
    assert small[5] == larger[5] == 0
    assert small.is_loaded
    assert not larger.is_loaded


def test_a_share_of_columns_that_spans_the_file_is_loaded(many: NpyRef, proxy: Proxy) -> None:
    """The columns lie so close that all between is read anyway."""
    assert same(many[:, [3, 30]], MANY[:, [3, 30]])
    assert many.is_loaded


def test_reading_never_loads(many: NpyRef, proxy: Proxy) -> None:
    assert same(many.read(np.s_[1:]), MANY[1:].copy())
    assert same(many.read(np.s_[:, 5]), MANY[:, 5].copy())
    assert not many.is_loaded


def test_local_runs_far_apart_are_read_alone(stored: Stored, read: list[tuple[int, int]]) -> None:
    ref = stored(MANY)
    assert same(ref[[7, 90_000]], MANY[[7, 90_000]])
    assert sorted(read) == [(0, 128), (128 + 7 * 160, 160), (128 + 90_000 * 160, 160)]


@pytest.mark.parametrize("delay_s", [0, 0.03, 0.1])
def test_memory_is_the_result_and_the_parts_in_flight(
    stored: Stored, s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch, delay_s: float
) -> None:
    delay = property(lambda self: delay_s, lambda *_: None)
    monkeypatch.setattr(Pace, "delay_s", delay, raising=False)
    array = np.zeros((2 << 20, 8))  # 128 MiB, of which an eighth is wanted and all is read
    ref = at(stored(array, store=s3), s3)
    monkeypatch.setattr(settings, "memory", 1 << 20)
    _ = ref[:3]
    with peak_memory() as peak:
        part = ref[:, 3]
    assert peak[0] <= part.nbytes + (96 << 20)


# Rows of the built-in codec


@pytest.mark.parametrize(
    ("index", "requests"),
    [
        (np.s_[:100], [(0, 128 + 100 * 160)]),
        (np.s_[5000:5010], [(0, 128), (128 + 5000 * 160, 1600)]),
        (np.s_[0], [(0, 128 + 160)]),
        ([800, 0], [(0, 128 + 801 * 160)]),
        ([0, 5000], [(0, 128 + 160), (128 + 5000 * 160, 160)]),
    ],
    ids=str,
)
def test_the_header_comes_with_the_first_range(
    many: NpyRef, s3: dict[str, Any], proxy: Proxy, index: Any, requests: Any
) -> None:
    ref = at(many, s3, plain=True)
    assert check(MANY, index, ref)
    assert ranges(proxy) == requests
    proxy.requests.clear()
    assert check(MANY, np.s_[300:301], ref)
    assert ranges(proxy) == [(128 + 300 * 160, 160)]


def test_a_row_of_the_built_in_codec_in_fortran_order(
    stored: Stored, s3: dict[str, Any], proxy: Proxy
) -> None:
    array = np.asfortranarray(MANY[:8000])
    ref = at(stored(array, store=s3), s3, plain=True)
    for index in (np.s_[:2], np.s_[:, 3], np.s_[5:7, 3:9], [7, 3], (0, 0)):
        assert check(array, index, ref)


@pytest.mark.parametrize(
    "array",
    [
        *(MANY[:8000], np.asfortranarray(MANY[:8000]), MANY[:50].astype(">f4"), np.float64(3)),
        *(np.zeros((0, 3)), np.zeros((3, 1, 2), "c16", "F"), RECORDS[:5], np.array(["a", "bc"])),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}{array.flags.f_contiguous}",
)
def test_a_row_of_the_built_in_codec_is_loaded_by_one_request(
    stored: Stored, s3: dict[str, Any], proxy: Proxy, array: Any
) -> None:
    array = np.asanyarray(array)
    ref = at(stored(array, store=s3), s3, plain=True)
    _ = at(stored(array, 2, store=s3), s3).load()  # the first of a process asks for more
    proxy.requests.clear()
    loaded = ref.load()
    assert same(loaded, array)
    assert loaded.flags.f_contiguous == array.flags.f_contiguous
    assert len(ranges(proxy)) == 1


@pytest.mark.parametrize("where", ["local", "s3"])
def test_many_rows_of_the_built_in_codec(
    stored: Stored, store: Path, s3: dict[str, Any], where: str
) -> None:
    settings_ = s3 if where == "s3" else {"protocol": "file", "location": str(store)}
    arrays = [np.full((30, 2 + n % 3), n, order="F" if n % 2 else "C") for n in range(40)]
    refs = [
        at(stored(array, n, store=settings_), settings_, plain=True)
        for n, array in enumerate(arrays)
    ]
    found = dj_npy.load(refs)
    assert all(map(same, found, arrays))
    assert [each.flags.f_contiguous for each in found] == [n % 2 == 1 for n in range(40)]
    assert not any(each.flags.writeable for each in found)


def test_what_the_built_in_codec_wrote_itself(store: Path, in_parts: None) -> None:
    settings_ = {"protocol": "file", "location": str(store)}
    stores: dict[str, Any] = {"default": "main", "main": settings_}
    config = SimpleNamespace(
        stores=stores, get_store_spec=lambda name=None: {"schema_prefix": "_schema", **settings_}
    )
    context = {"config": config, "schema": "s", "table": "t", "field": "a"}
    row = BuiltinNpyCodec().encode(MANY, key={"id": 1}, context=context, store_name="main")
    ref = dj_npy.NpyCodec().decode(row, context=context)
    for index in (np.s_[:2], np.s_[:, 3], [7, 3], (0, 0)):
        assert check(MANY, index, ref)


# Files that are not what they should be

PARTS: list[Any] = [np.s_[10:20], np.s_[::5000], [3, 90_000], np.s_[:, 2], -1]


@pytest.mark.parametrize("index", PARTS, ids=str)
def test_a_file_cut_short_is_told(stored: Stored, store: Path, in_parts: None, index: Any) -> None:
    ref = stored(MANY)
    assert check(MANY, index, ref)
    assert check(MANY, index, ref)  # and is kept open
    os.truncate(store / ref.path, 200)
    with pytest.raises(ArrayCorruptError, match=r"'lab/.*expected 16000128 bytes, found 200"):
        ref[index]


@pytest.mark.parametrize("index", PARTS, ids=str)
@pytest.mark.parametrize("times", [0, 1, 2, 3])
def test_another_file_of_that_name_is_told(
    stored: Stored, store: Path, in_parts: None, times: int, index: Any
) -> None:
    ref = stored(MANY)
    for _ in range(times):
        assert check(MANY, index, ref)
    (store / ref.path).unlink()
    with pytest.raises(ArrayMissingError, match="no such file"):
        ref[index]
    np.save(store / ref.path, MANY.reshape(-1, 20))
    with pytest.raises(ArrayCorruptError, match="another array than the row says"):
        ref[index]
    np.save(store / ref.path, np.asfortranarray(MANY))  # as good
    assert check(MANY, index, ref)
    (store / ref.path).unlink()
    np.save(store / ref.path, MANY + 1)
    assert check(MANY + 1, index, ref)


def test_a_file_cut_short_while_it_is_read(
    stored: Stored, store: Path, in_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = stored(MANY)
    original = os.preadv

    def cutting(descriptor: int, buffers: Any, position: int) -> int:
        os.truncate(store / ref.path, 1000)
        return original(descriptor, buffers, position)

    monkeypatch.setattr(os, "preadv", cutting)
    for index in PARTS:
        with pytest.raises(ArrayCorruptError, match="found 1000"):
            ref[index]


@pytest.mark.parametrize("times", [1, 99])
def test_an_object_replaced_between_two_parts_is_never_mixed(
    many: NpyRef, proxy: Proxy, moto: str, location: str, times: int
) -> None:
    versions = []
    for number in (1, 2):
        file = io.BytesIO()
        np.save(file, MANY + number)
        versions.append(file.getvalue())
    asked = iter(range(10_000))

    def harm(request: Any) -> Fault:
        turn, number = divmod(next(asked), 10)
        if number == 8 and turn < times:
            S3Raw(moto, location).put(many.path, versions[turn % 2])
        return Fault(stall=0.2 if number < 8 else 0)

    proxy.harm = harm
    if times > 1:
        with pytest.raises(ArrayCorruptError, match="changed while it was read"):
            many[::10_000]
        proxy.harm = lambda request: Fault()
        assert check(MANY + 2, np.s_[::10_000], many)
    else:
        assert check(MANY + 1, np.s_[::10_000], many)


@pytest.mark.parametrize("contents", [b"", b"short", bytes(20_000_000)])
def test_an_object_of_another_size_is_told(
    many: NpyRef, moto: str, location: str, contents: bytes
) -> None:
    S3Raw(moto, location).put(many.path, contents)
    for index in PARTS:
        with pytest.raises(ArrayCorruptError, match=many.path):
            many[index]


def test_faults_of_the_network_end_in_the_right_bytes(many: NpyRef, proxy: Proxy) -> None:
    for fault in (Fault(status=503), Fault(reset=True), Fault(cut=50), Fault(whole=True)):
        proxy.times(3, fault)
        assert check(MANY, np.s_[::10_000], many)
        proxy.times(1, fault)
        assert check(MANY, np.s_[500:600], many)


def test_a_server_that_ignores_ranges_is_read_once_from_beginning_to_end(
    stored: Stored, rclone: str, location: str
) -> None:
    with proxy_of(rclone) as proxy:
        ref = stored(MANY, store=s3_settings(proxy.endpoint, location=location))
        _ = ref[[0, 1]]
        proxy.requests.clear()
        for index in (np.s_[::10_000], [99_999, 5, 70_000], np.s_[3:5]):
            assert check(MANY, index, ref)
        assert len(proxy.requests) == 3


def test_a_store_without_ranges_of_its_own_reads_parts_too(
    stored: Stored, s3: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dj_npy._stores.opening._forked", True)
    ref = at(stored(MANY, store=s3), {**s3, "secure": False})
    for index in PARTS:
        assert check(MANY, index, ref)


# Into the caller's memory


def test_read_into_memory_of_any_layout(stored: Stored, in_parts: None) -> None:
    array = MANY[:500].reshape(50, 10, 40)
    for ref in (stored(array), stored(np.asfortranarray(array), 2)):
        for index in (np.s_[3:7], np.s_[::-2, 3], np.s_[[4, 1, 4], :, 7:9], np.s_[..., None, 5]):
            expected = array[index]
            wide = np.zeros((*expected.shape[:-1], expected.shape[-1] * 3), "i4")
            for out in (
                np.zeros_like(expected),
                np.zeros_like(expected).T.copy().T,
                wide[..., ::3],
            ):
                assert ref.read(index, out=out) is out
                assert np.array_equal(out, expected)


def test_memory_that_does_not_fit_is_refused_before_anything_is_read(
    many: NpyRef, proxy: Proxy
) -> None:
    read_only = np.zeros((2, 40), "i4")
    read_only.flags.writeable = False
    for out in (np.ones((3, 40), "i4"), np.ones((2, 40)), np.ones(80, ">i4"), read_only, [1]):
        with pytest.raises(ArrayInvalidError, match="out must be"):
            many.read(np.s_[5:7], out=out)  # type: ignore[arg-type]
    assert proxy.requests == []


# Iteration


def test_rows_come_as_numpy_gives_them(stored: Stored, in_parts: None) -> None:
    for number, array in enumerate(
        [MANY[:30], np.arange(5), np.zeros((3, 0)), np.zeros((0, 3)), RECORDS[:4], MANY[:20].T]
    ):
        ref = stored(array, number)
        rows = list(ref)
        assert len(rows) == len(array)
        assert all(as_numpy(row, expected) for row, expected in zip(rows, array, strict=True))
    with pytest.raises(TypeError, match="0-d"):
        iter(stored(np.array(1), 99))


def test_blocks(stored: Stored, in_parts: None) -> None:
    ref = stored(MANY[:1000])
    blocks = list(ref.blocks("16 kB"))
    assert [block.shape for block in blocks] == [(100, 40)] * 10
    assert all(block.flags.owndata for block in blocks)
    assert same(np.concatenate(blocks), MANY[:1000].copy())
    assert [len(block) for block in ref.blocks(1)] == [1] * 1000
    assert [len(block) for block in ref.blocks()] == [1000]
    assert list(stored(np.zeros((0, 3)), 2).blocks()) == []
    assert [b.shape for b in stored(np.zeros((5, 0)), 3).blocks()] == [(5, 0)]
    for size in (0, -1, "many", None, "1 parsec"):
        with pytest.raises(ArrayInvalidError, match="nbytes must be"):
            ref.blocks(size)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        stored(np.array(1), 4).blocks()


def test_the_next_block_is_read_while_this_one_is_used(many: NpyRef, proxy: Proxy) -> None:
    blocks = many.blocks("1.6 MB")
    next(blocks)
    for _ in range(100):
        if len(ranges(proxy)) == 2:
            break
        time.sleep(0.02)
    time.sleep(0.1)
    assert ranges(proxy) == [(128, 1_600_000), (128 + 1_600_000, 1_600_000)]
    before = threading.active_count()
    blocks.close()  # type: ignore[attr-defined]
    assert threading.active_count() < before
    assert len(proxy.requests) == 2


def test_walking_takes_the_memory_of_two_blocks(stored: Stored) -> None:
    ref = stored(np.zeros((1 << 20, 16)))  # 128 MiB
    with peak_memory() as peak:
        for block in ref.blocks("8 MiB"):
            assert not block.any()
    assert peak[0] < 40 << 20
    assert not ref.is_loaded


def test_an_error_in_the_middle_of_a_walk(stored: Stored, store: Path) -> None:
    ref = stored(MANY)
    blocks = ref.blocks("1 MB")
    next(blocks)
    os.truncate(store / ref.path, 5_000_000)
    with pytest.raises(ArrayCorruptError, match="found 5000000"):
        list(blocks)


def test_a_forked_child_goes_on_with_a_walk(stored: Stored) -> None:
    ref = stored(MANY)
    blocks = ref.blocks("1.6 MB")
    first = next(blocks)
    assert fork_and(lambda: np.array_equal(np.concatenate(list(blocks)), MANY[10_000:])) == 0
    assert np.array_equal(np.concatenate([first, *blocks]), MANY)


# Files that stay open


def close_all() -> None:
    while openfiles._open:
        if kept := openfiles._open.popleft()():
            kept.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_few_files_stay_open_however_many_are_read(stored: Stored, in_parts: None) -> None:
    gc.collect()  # of what other tests have left open
    close_all()
    before = descriptors()
    refs = [stored(MANY[:100], number) for number in range(200)]
    for ref in refs:
        for n in range(4):
            assert same(ref[n : n + 2], MANY[n : n + 2].copy())
    assert descriptors() - before == 64
    close_all()
    assert descriptors() == before


def test_a_file_is_opened_once_for_many_slices(
    stored: Stored, opened: list[str], in_parts: None
) -> None:
    ref = stored(MANY)
    for n in range(100):
        assert same(ref[n : n + 5], MANY[n : n + 5].copy())
    assert len(opened) == 4  # the last of them stays open
    ref.unload()
    _ = ref[0:5]
    assert len(opened) == 7  # and one that stays open in its place


@pytest.mark.parametrize(
    "array", [MANY[:9], np.arange(9.0), np.arange(9, dtype=">c16"), np.arange(9).astype("M8[s]")]
)
def test_slices_of_an_open_file_are_those_of_numpy(
    stored: Stored, in_parts: None, array: Any
) -> None:
    ref = stored(array)
    for index in [
        slice(a, b, c) for a in (None, 2, -3, 99) for b in (None, 5, -99) for c in (None, 1, 2, -1)
    ]:
        check(array, index, ref)
    check(array, slice("a"), ref)
    check(array, slice(0, 1, 0), ref)


# Size


def test_a_file_of_10_to_the_13_elements(stored: Stored, store: Path, read: list[Any]) -> None:
    ref = stored(np.zeros((10, 1000), "i1"))
    shape = (10**10, 1000)
    header = npyfile.header_bytes(np.dtype("i1"), shape, False)
    with open(store / ref.path, "wb") as file:
        file.write(header)
        try:
            file.truncate(len(header) + 10**13)
        except OSError as error:
            pytest.skip(f"the file system has no files of 10 TB: {error}")
        for row, column in ((0, 5), (5 * 10**9, 999), (10**10 - 1, 0)):
            file.seek(len(header) + row * 1000 + column)
            file.write(b"\7")
    huge = {**ref._raw, "shape": list(shape), "offset": len(header)}
    ref = dj_npy.NpyCodec().decode(huge, context={"config": ref._config})
    assert ref[-1, 0] == ref[0, 5] == 7
    assert ref[5 * 10**9 - 1 : 5 * 10**9 + 2, ::-1].sum() == 7
    assert ref[[0, 10**10 - 1, 5 * 10**9]].sum(axis=1).tolist() == [7, 7, 7]
    assert ref[:: 5 * 10**9, 990:].sum() == 7
    assert sum(nbytes for _, nbytes in read) < 20_000
    for bad in (10**10, (0, 1000), [10**10]):
        with pytest.raises(IndexError):
            ref[bad]
    assert next(iter(ref.blocks("1 MB"))).shape == (1000, 1000)


# What a review found


@pytest.mark.parametrize("is_far", [False, True])
def test_what_comes_with_the_header_is_never_mixed_with_another_version(
    many: NpyRef,
    s3: dict[str, Any],
    moto: str,
    location: str,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    is_far: bool,
) -> None:
    """The object is replaced when half of the parts have been answered."""
    monkeypatch.setattr(Pace, "is_far", is_far)
    lock, replaced = threading.Lock(), MANY + 1

    def harm(request: Request) -> Fault:
        with lock:
            if len(proxy.requests) == 6:
                file = io.BytesIO()
                np.save(file, replaced)
                S3Raw(moto, location).put(many.path, file.getvalue())
        return Fault()

    proxy.harm = harm
    assert check(replaced, np.s_[::10_000], at(many, s3, plain=True))
    assert len(proxy.requests) > 11


def test_a_row_of_the_built_in_codec_is_loaded_by_what_is_known_of_it(
    many: NpyRef, s3: dict[str, Any], proxy: Proxy
) -> None:
    assert check(MANY, np.s_[:], at(many, s3, plain=True))
    assert sum(nbytes for _, nbytes in ranges(proxy)) == MANY.nbytes + 128


@pytest.mark.slow
def test_files_that_are_closed_while_they_are_read(
    stored: Stored, in_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openfiles, "_MAX_FILES", 2)
    refs = [stored(np.full((50, 50), number, "f8"), number) for number in range(8)]
    failures: list[Any] = []

    def read(seed: int) -> None:
        for number in np.random.default_rng(seed).integers(0, 8, 3000):
            try:
                if not (refs[number][3:5] == number).all():
                    failures.append(number)
            except Exception as error:
                failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []


@pytest.fixture
def kept_open(stored: Stored, in_parts: None) -> NpyRef:
    """A reference to `MANY` whose file stays open, as it was read several times."""
    ref = stored(MANY)
    for _ in range(3):
        assert check(MANY, np.s_[5:9], ref)
    return ref


def test_an_open_file_that_lost_its_name_is_not_read(kept_open: NpyRef, store: Path) -> None:
    path = store / kept_open.path
    os.link(path, store / "backup.npy")  # so it keeps another name
    np.save(store / "other.npy", MANY + 1)
    os.replace(store / "other.npy", path)
    for _ in range(3):
        assert check(MANY + 1, np.s_[5:9], kept_open)
    path.unlink()
    with pytest.raises(ArrayMissingError):
        kept_open[5:9]


def test_a_folder_that_is_exchanged_is_noticed_in_time(kept_open: NpyRef, store: Path) -> None:
    store.rename(store.parent / "moved")
    path = store / kept_open.path
    path.parent.mkdir(parents=True)
    np.save(path, MANY + 1)
    time.sleep(openfiles._RECHECK_S)
    assert check(MANY + 1, np.s_[5:9], kept_open)


def test_a_folder_that_is_moved_away_is_noticed_in_time(kept_open: NpyRef, store: Path) -> None:
    (store / kept_open.path).parent.rename(store / "moved")
    time.sleep(openfiles._RECHECK_S)
    with pytest.raises(ArrayMissingError):
        kept_open[5:9]


def test_files_are_closed_with_the_last_who_wants_them(stored: Stored, in_parts: None) -> None:
    close_all()
    before = descriptors()
    refs = [stored(MANY[:100], number) for number in range(10)]
    for ref in refs:
        for n in range(4):
            ref[n : n + 2]
    assert descriptors() == before + 10
    refs[0].unload()
    assert descriptors() == before + 9
    del ref, refs
    assert descriptors() == before


@pytest.mark.slow
def test_few_descriptors_leave_room_for_others(store: Path) -> None:
    code = """
import resource, sys, numpy as np
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
import dj_npy
from types import SimpleNamespace
dj_npy.settings.load_below = 0
stores = {"default": "main", "main": {"protocol": "file", "location": sys.argv[1]}}
config = SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(stores[name]))
np.save(sys.argv[1] + "/a.npy", np.zeros((100, 100)))
row = {"path": "a.npy", "store": "main", "dtype": "float64", "shape": [100, 100]}
refs = [dj_npy.NpyCodec().decode(row, context={"config": config}) for _ in range(60)]
for ref in refs * 3:
    assert ref[2:4].shape == (2, 100)
print("read")
"""
    assert warm.output("-c", code, str(store)) == "read"


@pytest.mark.parametrize("limit", [resource.RLIM_INFINITY, 3, 0])
def test_any_limit_of_descriptors_is_borne(
    stored: Stored, in_parts: None, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(openfiles, "getrlimit", lambda _: (limit, limit))
    ref = stored(MANY[:100])
    for n in range(5):
        assert check(MANY[:100], slice(n, n + 2), ref)


def test_walking_along_an_array_in_fortran_order_reads_it_once(
    many: NpyRef, stored: Stored, s3: dict[str, Any], proxy: Proxy
) -> None:
    array = np.asfortranarray(MANY[:20_000])
    ref = at(stored(array, 2, store=s3), s3)
    proxy.requests.clear()
    assert np.array_equal(np.concatenate(list(ref.blocks("100 kB"))), array)
    assert sum(nbytes for _, nbytes in ranges(proxy)) == array.nbytes + 128


@pytest.mark.skipif(np.__version__.startswith("1."), reason="NumPy 1 has 32 axes")
def test_an_index_of_more_axes_than_old_numpy_had(stored: Stored, in_parts: None) -> None:
    check(np.arange(3.0), np.zeros((1,) * 33, int), stored(np.arange(3.0)))
    check(np.arange(3.0), np.full((1,) * 64, -1), stored(np.arange(3.0), 2))


def test_a_masked_array_is_no_memory_to_read_into(stored: Stored, in_parts: None) -> None:
    ref = stored(MANY[:10])
    with pytest.raises(ArrayInvalidError, match="MaskedArray"):
        ref.read(out=np.ma.zeros((10, 40), "i4"))
    records: Any = np.zeros((10, 40), "i4").view(np.recarray)
    assert ref.read(out=records) is records
    assert np.array_equal(records, MANY[:10])
    assert ref.read(np.s_[::-1], out=records) is records
    assert np.array_equal(records, MANY[9::-1])


@pytest.mark.parametrize("name", ["range_bytes", "merge_gap"])
def test_thresholds_have_limits(name: str) -> None:
    for size in (-1, "2 EiB"):
        with pytest.raises(ValidationError):
            setattr(settings, name, size)


def test_memory_for_points_is_a_few_numbers_each(stored: Stored, in_parts: None) -> None:
    array = np.zeros(4_000_000, "u1")
    ref, mask = stored(array), np.random.default_rng(0).random(array.size) < 0.25
    ref.read(mask)
    tracemalloc.start()
    found = ref.read(mask)
    assert tracemalloc.get_traced_memory()[1] < 45 * found.size
    tracemalloc.stop()
