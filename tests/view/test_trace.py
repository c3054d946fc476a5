"""Recordings: exact where they are read whole, told where not, and exact again by an overview."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dj_npy
from dj_npy import NpyCodec, NpyRef
from dj_npy._format import npyfile
from dj_npy._view import arrays as arrays_module
from dj_npy._view import jobs as jobs_module
from dj_npy._view import overview as overview_module
from dj_npy._view import trace as trace_module
from dj_npy._view.overview import reduced
from tests.support.cases import case
from tests.support.faults import Fault, Proxy
from tests.view.conftest import Page, Reply, Show, until


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds of 64 MB and 8 MB are 4 MB and 1 MB."""
    for module in (arrays_module, trace_module):
        monkeypatch.setattr(module, "MOST", 4 << 20)
    monkeypatch.setattr(trace_module, "_SAMPLED", 1 << 20)
    monkeypatch.setattr(jobs_module, "_BLOCK", 1 << 20)


def values(reply: Reply) -> tuple[Any, Any]:
    """Lowest and highest values, by channel and pixel."""
    header = reply.header
    first, stop = header["channels"]
    planes = 3 if header["nan"] else 2
    lowest, highest = reply.array(header["dtype"], planes, stop - first, header["width"])[:2]
    return lowest, highest


def nan_of(reply: Reply) -> Any:
    """How many values are NaN, by channel and pixel."""
    header = reply.header
    first, stop = header["channels"]
    counts = reply.array(header["dtype"], 3, stop - first, header["width"])[2]
    assert counts.sum() == header["nan"]
    return counts


def by_pixel(array: Any, reply: Reply) -> tuple[Any, Any]:
    """What they should be, of an array with samples as rows."""
    header = reply.header
    first, stop = header["channels"]
    data = array[header["start"] : header["stop"], first:stop]
    pixels = [data[n : n + header["of"]] for n in range(0, len(data), header["of"])]
    return (
        np.stack([np.fmin.reduce(each, axis=0) for each in pixels], axis=1),
        np.stack([np.fmax.reduce(each, axis=0) for each in pixels], axis=1),
    )


def check(array: Any, reply: Reply) -> None:
    assert reply.header["exact"]
    for found, expected in zip(values(reply), by_pixel(array, reply), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100, 1000])
@pytest.mark.parametrize("start", [0, 1, 5, 63, 64, 999])
def test_bins_are_reduced_as_numpy_does(size: int, start: int) -> None:
    data = np.random.default_rng(size).integers(-1000, 1000, (257, 3))
    found = reduced(np.fmin, data, start, size)
    edges = sorted({0, *(n for n in range(257) if (n + start) % size == 0)})
    np.testing.assert_array_equal(found, np.minimum.reduceat(data, edges))
    np.testing.assert_array_equal(reduced(np.fmin, data.T.copy().T, start, size), found)
    assert reduced(np.fmin, data[:0], start, size).shape == (0, 3)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", "<f4", ">f8", "<i8", "f2", "?", "<c8"])
def test_a_window_is_drawn_exactly(given: Page, shown: Show, dtype: str) -> None:
    array = np.random.default_rng(1).integers(0, 100, (3000, 4)).astype(dtype)
    named = shown(array)
    drawn = np.abs(array) if array.dtype.kind == "c" else array
    for width in (1, 7, 100, 1200, 5000):
        with case(width):
            reply = given.fine("trace", start=17, stop=2999, channels="1:3", width=width, **named)
            assert reply.header["channels"] == [1, 3]
            assert reply.header["dtype"] == ("<f8" if dtype in (">f8", "<i8") else "<f4")
            assert reply.header["width"] <= width
            assert reply.header["of"] == reply.header["read"] == -(-2982 // width)
            check(drawn.astype("f8").astype(reply.header["dtype"]), reply)


@pytest.mark.parametrize("layout", ["transposed", "fortran", "deep"])
def test_samples_may_be_along_any_axis(given: Page, shown: Show, layout: str) -> None:
    array = np.random.default_rng(1).integers(-99, 99, (3000, 6)).astype("i2")
    stored, axis = {
        "transposed": (array.T.copy(), 1),
        "fortran": (np.asfortranarray(array), 0),
        "deep": (array.reshape(3000, 2, 3).transpose(1, 0, 2).copy(), 1),
    }[layout]
    reply = given.fine("trace", axis=axis, channels="1:5", width=50, **shown(stored))
    assert reply.header["stop"] == 3000
    check(array, reply)


def test_not_a_numbers_are_left_out(given: Page, shown: Show) -> None:
    array = np.random.default_rng(1).normal(size=(1000, 2)).astype("f4")
    array[::3] = np.nan
    array[100:200] = np.nan
    reply = given.fine("trace", width=10, **shown(array))
    check(array, reply)
    assert np.isnan(values(reply)[0][:, 1]).all()
    assert not np.isnan(values(reply)[0][:, 0]).any()


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "f2", "<c8"])
def test_not_a_numbers_are_counted(given: Page, shown: Show, dtype: str) -> None:
    array = np.random.default_rng(1).normal(size=(3001, 3)).astype(dtype)
    array[5, 0] = array[100:900:7, 1] = array[2000:2500] = array[-1, 1] = np.nan
    named = shown(array)
    for width in (10, 1001, 3000):
        with case(width):
            reply = given.fine("trace", start=3, width=width, **named)
            assert reply.header["values"] == 3 * 2998
            pixels = range(3, 3001, reply.header["of"])
            expected = [np.isnan(array[n : n + reply.header["of"]]).sum(axis=0) for n in pixels]
            np.testing.assert_array_equal(nan_of(reply).T, expected)
    assert given.fine("trace", stop=3, **named).header["nan"] == 0


@pytest.mark.parametrize("dtype", ["<f4", "<f2"])
def test_not_a_numbers_are_counted_in_samples_and_overviews(
    given: Page, shown: Show, small_bounds: None, dtype: str
) -> None:
    array = np.zeros((2_000_003, 4), dtype)
    array[1_234_567, 2] = array[300_000:900_000, 1] = array[-1] = np.nan
    named = shown(array)
    sampled = given.fine("trace", width=1000, **named)
    header = sampled.header
    assert not header["exact"]
    starts = range(0, len(array), header["of"])
    read = np.concatenate([array[n : n + header["read"]] for n in starts])
    assert (header["nan"], header["values"]) == (np.isnan(read).sum(), read.size)
    compute(given, named)
    reply = given.fine("trace", width=1000, **named)
    check(array.astype("f4"), reply)
    assert (reply.header["nan"], reply.header["values"]) == (600_005, array.size)
    [pixel] = np.flatnonzero(nan_of(reply)[2][:-1])
    assert pixel == 1_234_567 // reply.header["of"]
    assert not np.isnan(values(reply)[0][2]).any()


def test_windows_without_samples_are_empty(given: Page, shown: Show) -> None:
    named = shown(np.zeros((100, 2)))
    assert given.fine("trace", start=50, stop=50, **named).header["width"] == 0
    assert given.fine("trace", start=500, stop=900, **named).header["width"] == 0
    assert given.fine("trace", channels="2:2", **named).header["channels"] == [2, 2]
    assert given.fine("trace", **shown(np.zeros((0, 2)))).header["width"] == 0
    assert given.fine("trace", **shown(np.zeros((5, 0)))).header["channels"] == [0, 0]


def test_wrong_windows_are_refused(given: Page, shown: Show) -> None:
    named = shown(np.zeros((100, 2)))
    wrongs: list[dict[str, Any]] = [
        {"axis": 2},
        {"start": "x"},
        {"stop": "-1"},
        {"channels": "3"},
        {"channels": "a:b"},
        {"width": "wide"},
        {"start": "9" * 30},
    ]
    for wrong in wrongs:
        with case(wrong):
            given.refused(400, "trace", **wrong, **named)


def test_what_has_no_numbers_is_refused(given: Page, shown: Show) -> None:
    for array in (np.array(["a", "b"]), np.zeros(3, "M8[s]"), np.zeros(3, "V2"), np.array(1.5)):
        given.refused(400, "trace", **shown(array))


def test_too_many_channels_are_refused(given: Page, shown: Show) -> None:
    given.refused(413, "trace", channels=":", width=8000, **shown(np.zeros((2, 100_000), "i1")))


@pytest.fixture
def large(small_bounds: None) -> Any:
    """32 MB, of which each sample is another: more than is read whole."""
    return np.random.default_rng(1).integers(-30_000, 30_000, (1 << 20, 16), "i2")


@pytest.mark.parametrize(("axis", "stretches"), [(0, 1), (1, 4)], ids=["C", "transposed"])
def test_a_large_window_is_sampled_and_says_so(
    given: Page,
    distant: Callable[[Any], NpyRef],
    proxy: Proxy,
    large: Any,
    axis: int,
    stretches: int,
) -> None:
    """Where samples are innermost in the file, each channel is a stretch of its own."""
    named = {"given": given.give(distant(np.moveaxis(large, 0, axis).copy())), "axis": axis}
    reply = given.fine("trace", width=1200, channels="0:4", **named)
    header = reply.header
    asked = [request.range for request in proxy.asked("GET") if request.range]
    sizes = [int(stop) - int(start) + 1 for start, stop in (r[6:].split("-") for r in asked)]
    sizes.remove(1)  # whether the server knows ranges
    assert header["bytes"] == sum(sizes)
    assert (1 << 19) < sum(sizes) <= (1 << 20)
    assert 100 < header["width"] == len(sizes) / stretches <= 1200
    assert not header["exact"]
    assert header["read"] < header["of"]
    lowest, highest = values(reply)
    for pixel in range(header["width"]):
        start = header["start"] + pixel * header["of"]
        data = large[start : start + header["read"], :4]
        np.testing.assert_array_equal(lowest[:, pixel], data.min(axis=0))
        np.testing.assert_array_equal(highest[:, pixel], data.max(axis=0))
    # Nearer, it is read whole, and exact, by one request for each.
    proxy.requests.clear()
    named |= {"start": 500_000, "stop": 507_000}
    check(large, given.fine("trace", width=1200, channels="0:4", **named))
    assert len(proxy.asked("GET")) == stretches


@pytest.mark.parametrize("layout", ["C", "F", "one channel"])
def test_sampling_reads_little_in_any_layout(
    given: Page, shown: Show, large: Any, layout: str
) -> None:
    array = {"C": large, "F": np.asfortranarray(large), "one channel": large.ravel()}[layout]
    header = given.fine("trace", width=1200, channels="0:4", **shown(array)).header
    assert header["bytes"] <= 2 << 20
    assert header["width"] >= 100
    assert not header["exact"]


@pytest.mark.parametrize("shape", [(16,), (4, 4)])
def test_sampling_takes_few_requests(
    given: Page,
    distant: Callable[[Any], NpyRef],
    proxy: Proxy,
    large: Any,
    shape: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also of an array with more axes, of which all channels are read."""
    monkeypatch.setattr(trace_module, "_REQUESTS", 160)
    array = large.T.reshape(*shape, -1).copy()
    named = {"given": given.give(distant(array)), "axis": len(shape)}
    header = given.fine("trace", width=1200, channels=":", **named).header
    assert header["width"] == 10
    given.fine("trace", width=1200, channels="0:2", **named)
    asked = [request for request in proxy.asked("GET") if request.range]
    assert len(asked) <= 2 * 160 + 1  # and whether the server knows ranges


@pytest.mark.parametrize("layout", ["C", "F", "deep", "one channel"])
def test_an_overview_makes_it_exact(given: Page, shown: Show, large: Any, layout: str) -> None:
    array, rows = {
        "C": (large, large),
        "F": (np.asfortranarray(large), large),
        "deep": (large.reshape(-1, 4, 4), large),
        "one channel": (large.ravel(), large.reshape(-1, 1)),
    }[layout]
    named = shown(array)
    rows = rows.astype("f4")
    assert given.fine("overview", **named).json == {"state": "absent", "done": 0, "error": None}
    compute(given, named)
    for start, stop, width in ((0, len(rows), 1200), (100_001, 900_003, 700), (0, 300_000, 50)):
        reply = given.fine("trace", start=start, stop=stop, width=width, channels=":", **named)
        header = reply.header
        assert (header["bytes"] == 0) == ((stop - start) * rows.shape[1] * 2 > 4 << 20)
        assert header["width"] <= width
        assert header["start"] <= start < stop <= header["stop"]
        check(rows, reply)


def compute(page: Page, named: dict[str, int], **more: Any) -> list[float]:
    """Start the overview, and wait for it; how it went on."""
    state = page.ask("/api/overview", {**named, **more}, "POST").json
    done = [state["done"]]
    for _ in range(2000):
        if state["state"] == "complete":
            return done
        assert state["state"] == "running"
        state = page.fine("overview", **named, **more).json
        done.append(state["done"])
        time.sleep(0.01)
    raise AssertionError(state)


def test_an_event_of_one_sample_is_seen(given: Page, shown: Show, small_bounds: None) -> None:
    array = np.zeros((1 << 21, 4), "i2")
    array[1_234_567, 2] = 9999
    named = shown(array)
    compute(given, named)
    lowest, highest = values(given.fine("trace", width=1000, **named))
    assert lowest.max() == 0
    assert highest.max(axis=1).tolist() == [0, 0, 9999, 0]


def test_an_overview_has_a_bound_and_is_left_where_it_is_too_coarse(
    given: Page, shown: Show, large: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview_module, "_LARGEST", 1 << 16)
    named = shown(large)
    compute(given, named)
    reply = given.fine("trace", width=1200, **named)
    assert reply.header["of"] == 1024  # twice two bytes of 16 channels each
    check(large, reply)
    header = given.fine("trace", stop=150 * 1024, width=1200, **named).header
    assert (header["exact"], header["bytes"] > 0) == (False, True)


def test_an_overview_is_there_the_next_time(
    given: Page,
    distant: Callable[[Any], NpyRef],
    proxy: Proxy,
    large: Any,
) -> None:
    ref = distant(large)
    compute(given, {"given": given.give(ref)})
    proxy.requests.clear()
    again = {"given": given.give(ref.__copy__())}
    assert given.fine("overview", **again).json["state"] == "complete"
    state = given.ask("/api/overview", again, "POST").json
    assert state == {"state": "complete", "done": 1, "error": None}
    check(large, given.fine("trace", width=500, channels="3:4", **again))
    # Only to see if it is the same file.
    assert {request.range for request in proxy.requests} <= {None, "bytes=0-0"}


def test_an_overview_waits_for_what_a_page_waits_for(
    given: Page, distant: Callable[[Any], NpyRef], proxy: Proxy, large: Any
) -> None:
    named = {"given": given.give(distant(large))}
    given.fine("trace", start=0, stop=10, width=10, **named)  # the server's ranges are known then

    def blocks() -> int:
        return sum(size(request) > 1 << 19 for request in proxy.asked("GET"))

    def size(request: Any) -> int:
        start, _, stop = (request.range or "bytes=0-0").removeprefix("bytes=").partition("-")
        return int(stop) - int(start)

    proxy.harm = lambda request: Fault(stall=0.05 if size(request) > 1 << 19 else 0.8)
    given.ask("/api/overview", named, "POST")
    until(blocks)
    before = blocks()
    given.fine("trace", start=0, stop=1000, width=10, **named)
    assert blocks() - before < 10  # of 32, which take as long as this window
    compute(given, named)
    assert blocks() == 32


def test_an_overview_is_of_this_version_of_a_file(
    given: Page, stored: Callable[..., NpyRef], large: Any, store: Path
) -> None:
    ref = stored(large)
    compute(given, {"given": given.give(ref)})
    changed = ref.load(mmap_mode="r+")
    changed[:] = 7
    del changed
    again = {"given": given.give(ref)}
    given.fine("array", **again)  # as the page asks when it is opened
    assert given.fine("overview", **again).json["state"] == "absent"
    compute(given, again)
    lowest, highest = values(given.fine("trace", **again))
    assert lowest.min() == highest.max() == 7


@pytest.mark.parametrize("missing", ["folder", "version"])
def test_an_overview_without_a_folder_or_a_version_is_kept_in_memory(
    given: Page,
    shown: Show,
    large: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
) -> None:
    if missing == "folder":
        (tmp_path / "file").write_text("")
        monkeypatch.setattr(dj_npy.settings, "cache_dir", tmp_path / "file")
    else:
        monkeypatch.setattr(arrays_module.Shown, "version", ())
    named = shown(large)
    compute(given, named)
    check(large, given.fine("trace", width=500, **named))
    assert given.fine("overview", **named).json["state"] == "complete"


def test_an_overview_that_nobody_asks_for_ends(
    given: Page,
    distant: Callable[[Any], NpyRef],
    proxy: Proxy,
    large: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs_module, "_ASKED_WITHIN_S", 0.5)
    ref = distant(large)
    proxy.harm = lambda request: Fault(stall=0.1)
    given.ask("/api/overview", {"given": given.give(ref)}, "POST")
    time.sleep(2)
    seen = len(proxy.asked("GET"))
    assert 0 < seen < 32
    time.sleep(0.5)
    assert len(proxy.asked("GET")) == seen
    proxy.harm = lambda request: Fault()
    assert given.fine("overview", given=0).json["state"] == "absent"
    monkeypatch.setattr(jobs_module, "_ASKED_WITHIN_S", 15)
    compute(given, {"given": 0})


def test_an_overview_that_fails_says_why(
    given: Page, stored: Callable[..., NpyRef], store: Path
) -> None:
    ref = stored(np.zeros((1000, 4)))
    named = {"given": given.give(ref)}
    given.fine("overview", **named)
    contents = (store / ref.path).read_bytes()
    (store / ref.path).write_bytes(contents[:-1])
    reply = given.ask("/api/overview", named, "POST")
    for _ in range(100):
        if reply.status != 200:
            break
        time.sleep(0.02)
        reply = given.get("overview", **named)
    assert reply.status == 409
    (store / ref.path).write_bytes(contents)
    compute(given, named)  # and may be tried again


def test_too_many_channels_have_no_overview(
    given: Page, shown: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview_module, "_LARGEST", 1000)
    named = shown(np.zeros((100, 5000), "i2"))
    given.refused(413, "overview", **named)
    monkeypatch.setattr(trace_module, "MOST", 1000)  # of which it would be drawn
    assert not given.fine("trace", width=10, channels="0:1", **named).header["exact"]


def sparse(folder: Path, shape: tuple[int, ...], dtype: str, fortran: bool = False) -> NpyRef:
    """An array that takes no room on the disk, and a row as DataJoint's own codec writes it."""
    header = npyfile.header_bytes(np.dtype(dtype), shape, fortran)
    nbytes = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    with (folder / "sparse.npy").open("wb") as file:
        file.write(header)
        file.truncate(len(header) + nbytes)
    store = {"protocol": "file", "location": str(folder)}
    config = SimpleNamespace(stores={"main": store}, get_store_spec=lambda name: dict(store))
    row = {"path": "sparse.npy", "store": "main", "dtype": dtype, "shape": [*shape]}
    return NpyCodec().decode(row, context={"config": config})


@pytest.mark.parametrize("shape", [(1_500_000, 384), (130_000_000, 384), (50_000_000_000,)])
def test_the_first_plot_of_any_length_reads_little(
    given: Page, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    """1.15 GB, 100 GB, and 100 GB of one channel."""
    named = {"given": given.give(sparse(tmp_path, shape, "int16"))}
    header = given.fine("trace", width=1200, **named).header
    assert header["bytes"] <= 10 << 20
    assert header["width"] >= 500
    assert header["stop"] == shape[0]
    window = {"start": shape[0] // 2, "stop": shape[0] // 2 + 7000}
    assert given.fine("trace", width=1200, **window, **named).header["exact"]


def test_the_first_request_knows_the_order_of_the_file(given: Page, tmp_path: Path) -> None:
    """Which a row of DataJoint's own codec does not tell."""
    recording = {"given": given.give(sparse(tmp_path, (10_000_000, 16), "int16", True))}
    first, second = (given.fine("trace", channels="0:4", **recording).header for _ in range(2))
    assert first == second
    movie = {"given": given.give(sparse(tmp_path, (1000, 512, 512), "int16", True))}
    assert "takes reading 500" in given.refused(413, "frame", **movie)
