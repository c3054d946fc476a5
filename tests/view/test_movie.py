"""Movies and stacks: frames, boxes over time and projections, of any layout."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dj_npy import NpyRef
from dj_npy._view import arrays as arrays_module
from dj_npy._view import jobs as jobs_module
from dj_npy._view import movie as movie_module
from tests.support.faults import Proxy
from tests.view.conftest import Page, Reply, Show, until


@pytest.fixture
def movie() -> Any:
    return np.random.default_rng(1).integers(0, 4000, (50, 40, 30), "u2")


def projected(page: Page, **params: Any) -> Reply:
    deadline = time.monotonic() + 60
    while (reply := page.get("projection", **params)).status != 200:
        assert reply.status == 202, reply.body
        assert 0 <= reply.json["done"] <= 1
        assert time.monotonic() < deadline, "it does not end"
        time.sleep(0.01)
    return reply


@pytest.mark.parametrize(
    "dtype", ["<u2", ">u2", "u1", "i2", "<f4", ">f8", "f2", "?", "<c8", "<i8", "u8"]
)
def test_a_frame_is_sent_with_its_range(given: Page, shown: Show, movie: Any, dtype: str) -> None:
    array = movie.astype(dtype)
    reply = given.fine("frame", axis=0, index=17, **shown(array))
    expected = np.abs(array[17]) if dtype == "<c8" else array[17]
    header = reply.header
    assert header["shape"] == [40, 30]
    assert header.get("rounded", False) == (dtype in ("<i8", "u8"))
    sent = {"?": "|u1", "<i8": "<f8", "u8": "<f8", "f2": "<f4", "<c8": "<f4"}
    expected_dtype = np.dtype(sent.get(dtype, dtype)).newbyteorder("<")
    assert header["dtype"] == expected_dtype.str
    np.testing.assert_array_equal(reply.array(), expected.astype(expected_dtype))
    assert (header["lowest"], header["highest"]) == (expected.min(), expected.max())
    p1, p99 = np.percentile(expected.astype("f8"), [1, 99])
    assert header["p1"] == pytest.approx(p1)
    assert header["p99"] == pytest.approx(p99)


def test_the_range_of_a_frame_leaves_out_what_is_no_number(given: Page, shown: Show) -> None:
    array = np.full((2, 20, 20), np.nan)
    array[0, 3, 4], array[0, 5, 6] = 5, np.inf
    named = shown(array)
    header = given.fine("frame", **named).header
    assert (header["lowest"], header["highest"], header["p99"]) == (5, None, 5)
    header = given.fine("frame", index=1, **named).header
    assert (header["lowest"], header["highest"], header["p1"]) == (None, None, None)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("order", ["C", "F"])
def test_frames_may_be_along_any_axis(
    given: Page, shown: Show, movie: Any, axis: int, order: str
) -> None:
    named = shown(np.asfortranarray(movie) if order == "F" else movie)
    moved = np.moveaxis(movie, axis, 0)
    reply = given.fine("frame", axis=axis, index=11, **named)
    np.testing.assert_array_equal(reply.array(), moved[11])
    reply = given.fine("frames", axis=axis, start=3, stop=8, **named)
    np.testing.assert_array_equal(reply.array(), moved[3:8])
    assert (reply.header["start"], reply.header["stop"]) == (3, 8)
    reply = given.fine("series", axis=axis, box="2:5,1:2", **named)
    np.testing.assert_allclose(reply.array(), moved[:, 2:5, 1:2].mean(axis=(1, 2)), rtol=1e-6)
    for kind in ("mean", "max", "std"):
        reply = projected(given, axis=axis, kind=kind, **named)
        np.testing.assert_allclose(reply.array(), getattr(moved, kind)(axis=0), rtol=1e-6)


def test_more_axes_have_a_place_each(given: Page, shown: Show) -> None:
    array = np.random.default_rng(1).normal(size=(3, 20, 4, 18)).astype("f4")
    named = shown(array)
    np.testing.assert_array_equal(given.fine("frame", index=2, **named).array(), array[2, :, 0])
    reply = given.fine("frame", index=2, other="2:3", **named)
    np.testing.assert_array_equal(reply.array(), array[2, :, 3])
    reply = given.fine("frame", axis=2, index=1, other="0:1", **named)
    np.testing.assert_array_equal(reply.array(), array[1, :, 1])
    reply = projected(given, axis=2, kind="mean", other="0:1", **named)
    np.testing.assert_allclose(reply.array(), array[1].mean(axis=1), rtol=1e-5)
    for other in ("2:4", "0:0", "9:0", "x", "2", "2:-1", "1:0,3:0"):
        given.refused(400, "frame", index=2, other=other, **named)


def test_projections_of_blocks_are_those_of_the_whole(
    given: Page, shown: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of values whose squares would cancel, in blocks of a part of a frame."""
    monkeypatch.setattr(jobs_module, "_BLOCK", 3000)
    array = 1e6 + np.random.default_rng(1).normal(size=(31, 20, 30))
    named = shown(array)
    for kind in ("mean", "max", "std"):
        found = projected(given, kind=kind, **named).array()
        np.testing.assert_allclose(found, getattr(array, kind)(axis=0), rtol=1e-9)
    asked = given.get("projection", kind="std", **named)
    assert asked.status == 200  # kept


def test_a_movie_is_not_read_whole(
    given: Page, distant: Callable[[Any], NpyRef], proxy: Proxy
) -> None:
    array = np.random.default_rng(1).integers(0, 4000, (20, 256, 256), "u2")
    named = {"given": given.give(distant(array))}
    np.testing.assert_array_equal(given.fine("frame", index=7, **named).array(), array[7])
    [asked] = proxy.asked("GET")
    assert asked.range
    start, stop = asked.range[6:].split("-")
    assert int(stop) - int(start) + 1 == 256 * 256 * 2
    reply = given.fine("frames", start=3, stop=9, **named)
    np.testing.assert_array_equal(reply.array(), array[3:9])
    assert len(proxy.asked("GET")) == 2


def test_bounds_hold_for_movies(
    given: Page, shown: Show, movie: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movie_module, "_FRAMES", 7 * 40 * 30 * 2)
    reply = given.fine("frames", start=1, stop=50, **shown(movie))
    assert (reply.header["start"], reply.header["stop"]) == (1, 8)
    for module in (arrays_module, movie_module):
        monkeypatch.setattr(module, "MOST", 40 * 30)
    given.refused(413, "frame", **shown(movie))
    given.refused(413, "projection", **shown(movie))


def test_a_long_series_takes_every_so_many_frames(
    given: Page, shown: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(1).integers(0, 200, (256, 512, 512), "u1")
    for module in (arrays_module, movie_module):
        monkeypatch.setattr(module, "MOST", 1 << 20)
    named = shown(array)
    reply = given.fine("series", box="0:512,0:20", **named)
    step = reply.header["step"]
    assert step > 1
    np.testing.assert_allclose(reply.array(), array[::step, :, :20].mean(axis=(1, 2)), rtol=1e-6)
    assert given.fine("series", box="4:5,7:8", **named).header["step"] == 1


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("frame", {"index": 50}),
        ("frame", {"index": "x"}),
        ("frame", {"axis": 3}),
        ("frames", {"start": "x"}),
        ("series", {}),
        ("series", {"box": "0:1"}),
        ("series", {"box": "0:0,0:1"}),
        ("series", {"box": "100:101,0:1"}),
        ("series", {"box": "a:b,0:1"}),
        ("projection", {"kind": "median"}),
    ],
)
def test_wrong_requests_are_refused(
    given: Page, shown: Show, movie: Any, name: str, params: dict[str, Any]
) -> None:
    given.refused(400, name, **params, **shown(movie))


def test_what_is_no_movie_is_refused(given: Page, shown: Show) -> None:
    for array in (np.zeros((5, 5)), np.zeros(5), np.array(1), np.full((2, 2, 2), "a")):
        for name in ("frame", "frames", "series", "projection"):
            given.refused(400, name, box="0:1,0:1", **shown(array))
    given.refused(400, "projection", **shown(np.zeros((0, 20, 20))))
    given.refused(400, "frame", **shown(np.zeros((0, 20, 20))))
    given.refused(400, "series", box="0:1,0:1", **shown(np.zeros((5, 0, 20))))


def test_a_projection_that_fails_says_why_and_may_be_tried_again(
    given: Page, stored: Callable[..., NpyRef], store: Path, movie: Any
) -> None:
    ref = stored(movie)
    named = {"given": given.give(ref), "kind": "mean"}
    given.fine("code", **named)
    contents = (store / ref.path).read_bytes()
    (store / ref.path).write_bytes(contents[:-1])
    until(lambda: given.get("projection", **named).status == 409)
    (store / ref.path).write_bytes(contents)
    np.testing.assert_allclose(projected(given, **named).array("<f4", 40, 30), movie.mean(0))


def test_a_box_that_cannot_be_read_is_refused(
    given: Page, shown: Show, movie: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (arrays_module, movie_module):
        monkeypatch.setattr(module, "MOST", 1000)
    given.refused(413, "series", box="0:40,0:30", **shown(movie))
