"""Dask arrays of references, and Dask arrays to insert; on threads and on processes."""

import json
import os
import pickle
import shutil
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import dask
import dask.array
import datajoint as dj
import distributed
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import dj_npy
from dj_npy import ArrayInvalidError, NpyRef
from dj_npy._format import npyfile
from tests.support import warm
from tests.support.arrays import arrays, same
from tests.support.faults import Proxy, proxy_of
from tests.support.servers import BUCKET, SECRET_KEY, files, free_port, s3_settings, started

Stored = Callable[..., NpyRef]
dd: Any = distributed
da: Any = dask.array  # their functions have no types
GIGABYTES = float(os.environ.get("DJ_NPY_TEST_GIGABYTES", "0.5"))
"""Size of the array that a cluster takes the mean of; 6 is what is promised."""


@pytest.fixture(autouse=True)
def _in_this_thread() -> Iterator[None]:
    """Threads are for those tests that say so."""
    with dask.config.set(scheduler="sync"):
        yield


# One array


@given(array=arrays(), data=st.data())
@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_array_comes_back_in_any_chunks(stored: Stored, array: Any, data: Any) -> None:
    array = np.array(array)  # owns its memory, in the file's order
    chunks = data.draw(
        st.sampled_from(["auto", "1 B", "7 B", "100 B", -1, 1, 2, "rows of two"]), label="chunks"
    )
    if chunks == "rows of two":
        chunks = (2, *(-1,) * (array.ndim - 1)) if array.ndim else ()
    ref = stored(array)
    lazy = ref.to_dask(chunks)
    assert (lazy.shape, lazy.dtype) == (array.shape, array.dtype)
    assert lazy._meta.dtype == array.dtype
    assert same(np.asarray(lazy.compute()), array)
    assert not ref.is_loaded


def test_making_one_does_no_io(stored: Stored, opened: list[str]) -> None:
    refs = [stored(np.zeros((100, 3)), n) for n in range(3)]
    opened.clear()
    lazy = refs[0].to_dask(), dj_npy.to_dask(refs), dj_npy.to_dask(refs, axis=1)
    assert repr(lazy)
    assert [each.dtype for each in lazy] == [np.dtype(float)] * 3
    assert opened == []


@pytest.mark.parametrize(
    ("shape", "order", "chunks", "expected"),
    [
        ((100, 8), "C", "auto", ((100,), (8,))),
        ((100, 8), "C", "1 kB", ((15,) * 6 + (10,), (8,))),
        ((100, 8), "F", "2 kB", ((100,), (2, 2, 2, 2))),
        ((100, 8), "F", "500 B", ((62, 38), (1,) * 8)),
        ((3, 100, 8), "C", "1 kB", ((1, 1, 1), (15,) * 6 + (10,), (8,))),
        ((0, 8), "C", "1 B", ((0,), (8,))),
        ((), "C", "1 B", ()),
        ((100, 8), "C", (50, 4), ((50, 50), (4, 4))),
        ((100, 8), "C", {0: 30}, ((30, 30, 30, 10), (8,))),
    ],
)
def test_chunks_lie_in_one_run_in_the_file(
    stored: Stored, shape: Any, order: Any, chunks: Any, expected: Any
) -> None:
    assert stored(np.zeros(shape, order=order)).to_dask(chunks).chunks == expected


def test_how_large_a_chunk_is_by_default_is_dasks_own_setting(stored: Stored) -> None:
    ref = stored(np.zeros((100, 8)))
    with dask.config.set({"array.chunk-size": "3200B"}):
        assert ref.to_dask().chunks == ((50, 50), (8,))


@pytest.mark.parametrize("chunks", ["many", "-1 MB", "", 0.5, (1, 2, 3), (30, "x"), ((1, 2), 8)])
def test_bad_chunks_are_refused(stored: Stored, chunks: Any) -> None:
    ref = stored(np.zeros((100, 8)))
    for make in (ref.to_dask, partial(dj_npy.to_dask, [ref], axis=0)):
        with pytest.raises(ArrayInvalidError, match="chunks"):
            make(chunks=chunks)


def test_of_a_slice_only_what_it_needs_is_read(stored: Stored, moto: str, location: str) -> None:
    with proxy_of(moto) as proxy:
        on_s3 = s3_settings(proxy.endpoint, location=location)
        ref = stored(np.arange(3_000_000.0).reshape(-1, 100), store=on_s3)
        proxy.requests.clear()
        assert ref.to_dask("1 MB")[20_000:20_010].sum().compute() == ref[20_000:20_010].sum()
        first = ranges(proxy)[: len(ranges(proxy)) // 2]
        assert [stop - start for start, stop in first] == [8_000]


def test_each_byte_is_read_once_and_the_header_never(
    stored: Stored, moto: str, location: str, near: None
) -> None:
    with proxy_of(moto) as proxy:
        on_s3 = s3_settings(proxy.endpoint, location=location)
        ref = stored(np.arange(3_000_000.0).reshape(-1, 100), store=on_s3)
        proxy.requests.clear()
        assert ref.to_dask("5 MB").mean().compute(scheduler="threads") == 1_499_999.5
        assert_each_byte_once(ranges(proxy), ref)


def test_the_mean_of_an_array_in_fortran_order_reads_each_byte_once(
    stored: Stored, moto: str, location: str
) -> None:
    with proxy_of(moto) as proxy:
        on_s3 = s3_settings(proxy.endpoint, location=location)
        array = np.asfortranarray(np.arange(1_000_000.0).reshape(-1, 100))
        ref = stored(array, store=on_s3)
        proxy.requests.clear()
        assert np.array_equal(ref.to_dask("1 MB").sum(axis=0).compute(), array.sum(axis=0))
        assert_each_byte_once(ranges(proxy), ref)


def ranges(proxy: Proxy) -> list[tuple[int, int]]:
    """What was asked for, ends exclusive."""
    found = []
    for request in proxy.asked("GET", "waveform.npy"):
        assert request.range, "all of the file was asked for"
        first, last = request.range.removeprefix("bytes=").split("-")
        found.append((int(first), int(last) + 1))
    return found


def assert_each_byte_once(found: list[tuple[int, int]], ref: NpyRef) -> None:
    position = ref._raw["offset"]
    for start, stop in sorted(found):
        assert start == position, f"asked for {sorted(found)}"
        position = stop
    assert position == ref._raw["offset"] + ref.nbytes


# Names


@pytest.mark.slow
def test_a_row_has_the_same_name_in_another_process(stored: Stored) -> None:
    ref = stored(np.zeros((100, 8)))
    names = [ref.to_dask("1 kB").name, dj_npy.to_dask([ref, ref]).name, dask.base.tokenize(ref)]
    program = (
        "import pickle, sys, dask, dj_npy\n"
        "ref = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "print(ref.to_dask('1 kB').name, dj_npy.to_dask([ref, ref]).name,"
        " dask.base.tokenize(ref))\n"
    )
    assert warm.output("-c", program, pickle.dumps(ref).hex()).split() == names
    # So does the same row, fetched again by a database that sorts it otherwise.
    again = NpyRef(dict(sorted(ref._raw.items())), ref._config)
    assert again.to_dask("1 kB").name == names[0]


def test_what_is_not_the_same_has_another_name(stored: Stored) -> None:
    ref, other = stored(np.zeros((4, 8))), stored(np.zeros((4, 8)), 2)
    changed = NpyRef({**ref._raw, "checksum": "xxh3_128:0"}, ref._config)
    elsewhere = SimpleNamespace(
        stores={"default": "main", "main": {"protocol": "file", "location": "/elsewhere"}}
    )
    names = [
        ref.to_dask().name,
        ref.to_dask((2, 8)).name,
        other.to_dask().name,
        changed.to_dask().name,
        NpyRef(ref._raw, elsewhere).to_dask().name,
        dj_npy.to_dask([ref]).name,
        dj_npy.to_dask([ref, other]).name,
        dj_npy.to_dask([other, ref]).name,
        dj_npy.to_dask([ref, other], axis=0, chunks=(8, 8)).name,
        dj_npy.to_dask([ref, other], axis=1, chunks=(8, 8)).name,
    ]
    assert len(set(names)) == len(names)


def test_a_graph_is_small_and_has_no_secret(stored: Stored, moto: str, location: str) -> None:
    ref = stored(np.zeros((100, 8)), store=s3_settings(moto, location=location))
    ref.load()
    graph = ref.to_dask("64 B").__dask_graph__()
    assert len(graph) == 100
    data = cloudpickle.dumps(graph)
    assert SECRET_KEY.encode() not in data
    assert len(data) < 20_000
    many = cloudpickle.dumps(dj_npy.to_dask([ref] * 500).__dask_graph__())
    assert SECRET_KEY.encode() not in many
    assert len(many) < 20_000


# Many arrays


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("chunks", ["auto", "100 B", "1 kB", 3, -1])
def test_many_are_stacked_or_put_one_after_the_other(
    stored: Stored, axis: int | None, chunks: Any, order: Any
) -> None:
    random = np.random.default_rng(1)
    shapes: list[tuple[int, ...]] = [(4, 5, 3)] * 4
    if axis is not None:
        shapes = [tuple(n if a == axis % 3 else 4 for a in range(3)) for n in (3, 0, 1, 7)]
    given = [random.random(shape).astype(">f4", order=order) for shape in shapes]
    refs = [stored(array, n) for n, array in enumerate(given)]
    expected = np.stack(given) if axis is None else np.concatenate(given, axis)
    expected = expected.astype(">f4")
    lazy = dj_npy.to_dask(refs, axis=axis, chunks=chunks)
    assert lazy.dtype == np.dtype(">f4")
    assert same(np.ascontiguousarray(lazy.compute()), np.ascontiguousarray(expected))
    for index in (
        np.s_[1:3],
        np.s_[-1],
        np.s_[::3],
        np.s_[..., 0],
        np.s_[:, 1],
        np.s_[::-1],
        np.s_[[2, 0]],
        np.s_[:, [0, 2]],
        np.s_[1, ..., 0],
        np.s_[:0],
    ):
        assert np.array_equal(lazy[index].compute(), expected[index]), index


def test_the_arrays_of_a_chunk_are_read_side_by_side(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, read = threading.Barrier(4), NpyRef.read

    def at_once(ref: NpyRef, *args: Any, **kwargs: Any) -> Any:
        together.wait(60)
        return read(ref, *args, **kwargs)

    lazy = dj_npy.to_dask([stored(np.full(3, n), n) for n in range(4)])
    monkeypatch.setattr(NpyRef, "read", at_once)
    assert lazy.numblocks == (1, 1)
    assert lazy.compute()[:, 0].tolist() == [0, 1, 2, 3]


def test_arrays_of_no_axis_are_stacked(stored: Stored) -> None:
    refs = [stored(np.array(n / 2), n) for n in range(5)]
    assert dj_npy.to_dask(refs)[1:].compute().tolist() == [0.5, 1.0, 1.5, 2.0]
    with pytest.raises(ArrayInvalidError, match="axis must be None"):
        dj_npy.to_dask(refs, axis=0)


@pytest.mark.parametrize("axis", [None, 0])
def test_small_ones_share_a_chunk_and_large_ones_are_cut(stored: Stored, axis: int | None) -> None:
    small = [stored(np.zeros((10, 8)), n) for n in range(7)]  # of 640 bytes
    chunks = dj_npy.to_dask(small, axis=axis, chunks="2 kB").chunks
    assert chunks[0] == ((3, 3, 1) if axis is None else (30, 30, 10))
    chunks = dj_npy.to_dask(small, axis=axis, chunks="400 B").chunks
    assert chunks[:2] == (((1,) * 7, (6, 4)) if axis is None else ((6, 4) * 7, (8,)))


def test_a_slice_of_many_reads_the_files_it_needs(stored: Stored, opened: list[str]) -> None:
    refs = [stored(np.full((10, 8), n), n) for n in range(9)]
    opened.clear()
    assert dj_npy.to_dask(refs)[3].compute()[0, 0] == 3
    assert {path.split("/")[-2] for path in opened} == {"recording_id=3"}
    opened.clear()
    assert dj_npy.to_dask(refs, axis=0)[35:45].compute()[:, 0].tolist() == [3] * 5 + [4] * 5
    assert {path.split("/")[-2] for path in opened} == {"recording_id=3", "recording_id=4"}


A = np.zeros((4, 3))


@pytest.mark.parametrize(
    ("others", "axis", "message"),
    [
        ([None], None, r"refs\[1\] is None, as the row has no array.*IS NOT NULL"),
        ([A], None, r"refs\[1\] is no NpyRef, but ndarray: pass the references"),
        ([np.zeros((5, 3))], None, r"refs\[1\] has shape \(5, 3\) \(path 'lab.*same shape.*`axis`"),
        ([np.zeros(4)], None, r"refs\[1\] has shape \(4,\)"),
        ([np.zeros((4, 5))], 0, r"\(4, 5\).*along axis 0 must agree in all others"),
        ([np.zeros((4, 3, 1))], 0, r"\(4, 3, 1\)"),
        ([np.zeros(())], 1, r"refs\[1\] has shape \(\)"),
        ([A.astype("f4")], None, r"refs\[1\] has dtype float32 \(path 'lab.*refs\[0\] has float64"),
        ([A.astype("f4")], 0, r"astype"),
        ([A], 2, r"axis must be None or one of the 2 axes of the arrays, not 2"),
        ([A], "time", r"axis must be None or one of the 2 axes of the arrays, not 'time'"),
    ],
)
def test_what_does_not_go_together_is_named(
    stored: Stored, others: list[Any], axis: Any, message: str
) -> None:
    refs: list[Any] = [stored(A)]
    for number, other in enumerate(others, 2):
        named = message.startswith(r"refs\[1\] is no")
        refs.append(stored(other, number) if isinstance(other, np.ndarray) and not named else other)
    with pytest.raises(ArrayInvalidError, match=message):
        dj_npy.to_dask(refs, axis=axis)


def test_no_references_are_refused() -> None:
    with pytest.raises(ArrayInvalidError, match="there are no references"):
        dj_npy.to_dask([])


def test_a_missing_file_is_told_when_its_chunk_is_computed(stored: Stored, store: Path) -> None:
    refs = [stored(A, n) for n in range(3)]
    (store / refs[1].path).unlink()
    for lazy in (dj_npy.to_dask(refs), dj_npy.to_dask(refs, axis=0)):
        with pytest.raises(dj_npy.ArrayMissingError, match="recording_id=1"):
            lazy.compute()
    assert dj_npy.to_dask(refs)[2].compute().tolist() == A.tolist()


# Inserting


@pytest.mark.parametrize("insert", ["insert1", "insert", "dj_npy.insert"])
def test_a_dask_array_is_inserted(recording: Any, store: Path, insert: str) -> None:
    array = np.arange(60.0).reshape(10, 6)
    row = {"recording_id": 1, "waveform": da.from_array(array, chunks=(3, 2))}
    if insert == "insert1":
        recording.insert1(row)
    elif insert == "insert":
        recording.insert([row])
    else:
        dj_npy.insert(recording, (row for _ in range(1)), progress=True)
    ref = (recording & "recording_id=1").fetch1("waveform")
    assert same(ref.load(), array)
    assert ref.verify() == "as inserted"
    assert same(np.load(store / ref.path), array)


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5),
        np.zeros((0, 4), "i2"),
        np.arange(6, dtype=">u2").reshape(3, 2),
        np.zeros(5, [("a", "i4"), ("b", "f8", (2,))]),
        np.asfortranarray(np.arange(12.0).reshape(4, 3)),
        np.array(["ab", "c"]),
    ],
    ids=lambda array: f"{array.dtype.kind}{array.shape}",
)
def test_dask_arrays_of_each_kind_are_stored(stored: Stored, array: Any) -> None:
    ref = stored(da.from_array(array))
    assert np.array_equal(ref.load(), array)
    assert (ref.dtype, ref.shape) == (array.dtype, array.shape)
    assert ref.verify() == "as inserted"


def test_a_reference_goes_through_dask_into_another_row(stored: Stored) -> None:
    ref = stored(np.arange(1000.0).reshape(100, 10))
    other = stored(ref.to_dask("1 kB") * 2, 2)
    assert np.array_equal(other.load(), ref.load() * 2)


def test_one_row_of_chunks_is_in_memory_at_a_time(stored: Stored) -> None:
    alive, most = 0, 0

    def made(block_id: tuple[int, int]) -> Any:
        nonlocal alive, most
        block = np.full((2, 3), sum(block_id), float)
        alive += 1
        most = max(alive, most)

        def gone() -> None:
            nonlocal alive
            alive -= 1

        weakref.finalize(block, gone)
        return block

    lazy = da.map_blocks(made, chunks=((2,) * 20, (3, 3)), dtype=float, meta=np.empty((0, 0)))
    assert stored(lazy).load()[-1, -1] == 20
    assert most <= 4  # two rows of two blocks


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: da.arange(10)[da.arange(10) > 4], r"shape.*compute_chunk_sizes\(\)"),
        (lambda: da.from_array(np.array([{}, []], object), chunks=1), "object dtype"),
        (lambda: da.ma.masked_array(da.arange(3), [0, 1, 0]), "masked"),
    ],
)
def test_dask_arrays_that_cannot_be_stored_are_refused_before_they_are_computed(
    stored: Stored, store: Path, make: Callable[[], Any], message: str
) -> None:
    with (
        dask.config.set(scheduler=lambda *_, **__: pytest.fail("it was computed")),
        pytest.raises(ArrayInvalidError, match=message),
    ):
        stored(make())
    assert files(store) == set()


def test_what_a_chunk_raises_the_insert_raises_and_leaves_nothing(
    recording: Any, store: Path
) -> None:
    def broken(block_id: tuple[int, ...]) -> Any:
        if block_id[0] == 3:
            raise RuntimeError("the third chunk")
        return np.zeros((200_000, 3))

    lazy = da.map_blocks(broken, chunks=((200_000,) * 5, (3,)), dtype=float, meta=np.empty((0, 0)))
    with pytest.raises(RuntimeError, match="the third chunk"):
        recording.insert1({"recording_id": 1, "waveform": lazy})
    assert len(recording()) == 0
    assert files(store) == set()


def test_a_chunk_of_another_dtype_than_dask_believes_is_told(stored: Stored, store: Path) -> None:
    wrong = da.ones((4, 3), chunks=2).map_blocks(lambda block: block.astype("f4"), dtype="f8")
    with pytest.raises(ArrayInvalidError, match=r"a block must have dtype float64.*float32"):
        stored(wrong)
    assert files(store) == set()


@pytest.mark.slow
def test_dask_is_not_imported_by_importing_this_package() -> None:
    program = (
        "import sys, dj_npy, numpy as np\n"
        "dj_npy.NpyCodec().validate(np.zeros(3))\n"
        "print(sorted({'dask', 'xarray', 'distributed'} & set(sys.modules)))\n"
    )
    assert warm.output("-c", program) == "[]"


def test_a_missing_dask_is_told(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = stored(A)
    monkeypatch.setitem(sys.modules, "dask.array", None)
    for make in (ref.to_dask, partial(dj_npy.to_dask, [ref]), partial(ref.to_dask, 2)):
        with pytest.raises(dj_npy.StoreError, match=r"pip install 'dj-npy\[dask\]'"):
            make()


# On a cluster


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Two worker processes, started as Dask starts them; they know of no store."""
    with (
        dd.LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            memory_limit=0,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": ":0"},  # else it takes port 8787 all the same
        ) as cluster,
        dd.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def on_cluster(client: Any) -> Iterator[Any]:
    """The same as Dask's scheduler, the workers knowing of no store when it is over."""
    with dask.config.set(scheduler=client):
        yield client
    client.run(configure, {})


def configure(stores: dict[str, Any]) -> None:
    dj.config.stores = stores


def peak_memory() -> int:
    # Not `ru_maxrss`: that begins with what the process had that has started this one.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM"))


def test_a_worker_without_the_settings_says_which_are_missing(
    on_cluster: Any, stored: Stored, moto: str, location: str
) -> None:
    ref = stored(np.arange(1000.0), store=s3_settings(moto, location=location))
    message = r"store 'main' is configured with `access_key` and `secret_key`.*dj.config.stores"
    for lazy in (ref.to_dask(), dj_npy.to_dask([ref, ref])):
        with pytest.raises(dj_npy.StoreError, match=message) as error:
            lazy.sum().compute()
        assert SECRET_KEY not in str(error.value)


def test_workers_that_are_told_the_settings_compute(
    on_cluster: Any, stored: Stored, moto: str, location: str
) -> None:
    settings = s3_settings(moto, location=location)
    arrays = [np.random.default_rng(n).random((300, 500)) for n in range(6)]
    refs = [stored(array, n, store=settings) for n, array in enumerate(arrays)]
    on_cluster.run(configure, {"main": settings})
    lazy = dj_npy.to_dask(refs, chunks="1 MB")
    assert lazy.numblocks == (6, 2, 1)
    assert np.allclose(lazy.mean(axis=0).compute(), np.mean(arrays, axis=0))
    assert np.allclose(refs[0].to_dask("100 kB").std().compute(), arrays[0].std())
    # A reference is as good as an argument of a task.
    futures = on_cluster.map(np.mean, refs)
    assert np.allclose(on_cluster.gather(futures), np.mean(arrays, axis=(1, 2)))


def test_what_the_cluster_holds_is_not_read_again_for_the_same_row(
    on_cluster: Any, stored: Stored, moto: str, location: str
) -> None:
    with proxy_of(moto) as proxy:
        settings = s3_settings(proxy.endpoint, location=location)
        ref = stored(np.arange(300_000.0).reshape(-1, 100), store=settings)
        on_cluster.run(configure, {"main": settings})
        held = on_cluster.persist(ref.to_dask("1 MB"))
        assert on_cluster.compute(held.sum()).result() == 299_999 * 150_000
        proxy.requests.clear()
        again = NpyRef(json.loads(json.dumps(ref._raw)), ref._config)
        same_one = on_cluster.persist(again.to_dask("1 MB"))
        assert on_cluster.compute(same_one.sum()).result() == 299_999 * 150_000
        assert proxy.requests == []


def test_a_dask_array_is_computed_by_the_cluster_and_inserted_here(
    on_cluster: Any, recording: Any
) -> None:
    here = os.getpid()

    def made(block_id: tuple[int, int]) -> Any:
        return np.full((10, 3), os.getpid())

    lazy = da.map_blocks(made, chunks=((10,) * 8, (3,)), dtype=int, meta=np.empty((0, 0), int))
    recording.insert1({"recording_id": 1, "waveform": lazy})
    ref = (recording & "recording_id=1").fetch1("waveform")
    assert ref.shape == (80, 3)
    assert here not in ref.load()


NGINX = """
worker_processes 1; daemon off; error_log stderr crit; pid {folder}/nginx.pid;
events {{ worker_connections 512; }}
http {{
    log_format what '$request_method $status $http_range $body_bytes_sent';
    access_log {folder}/requests what; sendfile on; keepalive_requests 1000000;
    server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
"""


@pytest.fixture
def nginx() -> Iterator[tuple[str, Path]]:
    """The reading half of S3, fast and with a log; its URL and folder."""
    command = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if command is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    folder, port = Path(tempfile.mkdtemp(prefix="dj-npy-nginx-")), free_port()
    folder.chmod(0o755)  # nginx reads as another user
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port))
    try:
        with started([command, "-c", str(config)], port) as url:
            yield url, folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_two_processes_take_the_mean_of_more_than_fits_and_read_each_byte_once(
    on_cluster: Any, nginx: tuple[str, Path]
) -> None:
    url, folder = nginx
    shape = (int(GIGABYTES * (1 << 17)), 1024)
    header = npyfile.header_bytes(np.dtype(float), shape, False)
    path = folder / BUCKET / "deep" / "sparse.npy"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:  # all of it is zero, but for some
        file.write(header)
        file.truncate(len(header) + 8 * shape[0] * shape[1])
        ones = range(1000, shape[0], 5000)
        for row in ones:
            file.seek(len(header) + 8 * row * shape[1])
            file.write(np.ones(shape[1]).tobytes())
    described = {
        "path": "sparse.npy",
        "store": "main",
        "dtype": "float64",
        "shape": list(shape),
        "offset": len(header),
    }
    stores: dict[str, Any] = {"default": "main", "main": s3_settings(url, location="deep")}
    config = SimpleNamespace(stores=stores, get_store_spec=lambda name: dict(stores[name]))
    ref = dj_npy.NpyCodec().decode(described, context={"config": config})
    on_cluster.run(configure, stores)
    before, start = on_cluster.run(peak_memory), time.monotonic()
    mean = ref.to_dask().mean().compute()
    seconds, after = time.monotonic() - start, on_cluster.run(peak_memory)
    assert mean == len(ones) / shape[0]
    assert len(after) == 2
    found = []
    for line in (folder / "requests").read_text().splitlines():
        method, status, asked, sent = line.split()
        if asked == "-":  # to see whether the server is up
            continue
        first, last = asked.removeprefix("bytes=").split("-")
        assert (method, status, int(sent)) == ("GET", "206", int(last) + 1 - int(first))
        found.append((int(first), int(last) + 1))
    # A process asks a server for a single byte once, to see whether it knows ranges.
    asks = [(start, stop) for start, stop in found if stop - start == 1]
    assert len(asks) <= 4
    assert_each_byte_once([each for each in found if each not in asks], ref)
    print(
        f"{ref.nbytes / 2**30} GiB in {seconds:.1f} s, by {len(found)} requests, {len(asks)} of "
        f"them of a byte; most memory of each worker {[n >> 20 for n in before.values()]} MiB "
        f"before and {[n >> 20 for n in after.values()]} MiB after"
    )
    assert max(after.values()) < 1_000_000_000
