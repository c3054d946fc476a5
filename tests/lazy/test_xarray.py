"""References, and queries, as lazy `DataArray`s."""

import pickle
import sys
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dj_npy
from dj_npy import ArrayInvalidError, NpyRef
from tests.conftest import MakeTable
from tests.lazy.test_dask import ranges
from tests.stores.test_conformance import location
from tests.support.arrays import same
from tests.support.faults import proxy_of
from tests.support.servers import s3_settings

__all__ = ["location"]  # a fixture

Stored = Callable[..., NpyRef]
A = np.arange(840.0).reshape(12, 7, 10)
DIMS, COORDS = ("time", "channel", "trial"), {"time": np.arange(12) / 10}
CHUNKS = pytest.mark.parametrize("chunks", [None, "auto", "1 kB", (5, 7, 3)])


@CHUNKS
def test_making_one_does_no_io(stored: Stored, opened: list[str], chunks: Any) -> None:
    ref = stored(A)
    opened.clear()
    array = ref.to_xarray(DIMS, COORDS, chunks=chunks)
    assert (array.dims, array.shape, array.dtype) == (DIMS, A.shape, A.dtype)
    assert repr(array)
    assert array._repr_html_()
    assert array.isel(time=slice(3, 5)).sel(channel=2).shape == (2, 10)
    pickle.dumps(array)
    assert opened == []


INDEXES: dict[str, Callable[[Any], Any]] = {
    "an integer": lambda array: array.isel(time=3),
    "the last": lambda array: array.isel(time=-1, trial=-2),
    "a slice": lambda array: array.isel(time=slice(2, 9, 3)),
    "backwards": lambda array: array.isel(time=slice(None, None, -2)),
    "nothing": lambda array: array.isel(time=slice(5, 5)),
    "a list": lambda array: array.isel(time=[3, 1, 1]),
    "a list beside an integer": lambda array: array.isel(time=5, trial=[2, 0]),
    "a list beside integers": lambda array: array.isel(time=[4, 2], channel=-1, trial=3),
    "two lists": lambda array: array.isel(time=[3, 1], trial=[2, 9, 4], channel=0),
    "a mask": lambda array: array.isel(time=array.time.values > 0.5),
    "points": lambda array: array.isel(
        time=xr.DataArray([1, 4], dims="point"), channel=xr.DataArray([6, 0], dims="point")
    ),
    "labels": lambda array: array.sel(time=slice(0.25, 0.75)).mean("time"),
    "one within the other": lambda array: array.isel(time=slice(2, 9)).isel(time=[1, 3], trial=4),
    "transposed": lambda array: array.transpose("trial", ...)[1, :, 3],
    "all of it": lambda array: array.max(("channel", "trial")),
}


@pytest.mark.usefixtures("nothing_configured")  # a pickle of it is opened
@CHUNKS
@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_it_is_indexed_as_one_in_memory(
    stored: Stored, index: Callable[[Any], Any], chunks: Any, order: Any
) -> None:
    ref = stored(np.array(A, order=order))
    expected = index(xr.DataArray(A, dims=DIMS, coords=COORDS))
    array = ref.to_xarray(DIMS, COORDS, chunks=chunks)
    xr.testing.assert_identical(index(array).compute(), expected)
    xr.testing.assert_identical(index(pickle.loads(pickle.dumps(array))).compute(), expected)


@pytest.mark.parametrize("chunks", [None, "auto"])
@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5),
        np.zeros((0, 4), ">i2"),
        np.arange(6, dtype=">f4"),
        np.arange(5).astype("M8[D]"),
        np.zeros(5, [("a", "i4"), ("b", "f8", (2,))]),
        np.array(["ab", "c"]),
    ],
    ids=lambda array: f"{array.dtype.kind}{array.shape}",
)
def test_arrays_of_each_kind(stored: Stored, array: Any, chunks: Any) -> None:
    lazy = stored(array).to_xarray(chunks=chunks)
    assert lazy.dims == tuple(f"dim_{n}" for n in range(array.ndim))
    assert same(np.array(lazy.values), array)
    if array.size > 1:
        assert same(np.array(lazy[1:3].values), array[1:3])
        assert lazy[1].values == array[1]
        assert lazy[1].dtype == array.dtype


def test_without_dask_only_what_is_selected_is_read(
    stored: Stored, moto: str, location: str
) -> None:
    with proxy_of(moto) as proxy:
        settings = s3_settings(proxy.endpoint, location=location)
        ref = stored(np.arange(3_000_000.0).reshape(-1, 100), store=settings)
        proxy.requests.clear()
        array = ref.to_xarray(("time", "channel")).isel(time=slice(20_000, 20_100))
        assert array.isel(time=slice(0, 10)).sum() == ref[20_000:20_010].sum()
        assert ranges(proxy)[0][1] - ranges(proxy)[0][0] == 8_000
    assert not ref.is_loaded


def test_what_is_loaded_by_a_data_array_stays_as_the_references_own(stored: Stored) -> None:
    ref = stored(A)
    array = ref.to_xarray(DIMS)
    array.mean().compute()
    assert ref.is_loaded


def test_it_can_be_chunked_by_xarray_itself(stored: Stored) -> None:
    ref = stored(A)
    names = {ref.to_xarray(DIMS).chunk(time=5).data.name for _ in range(2)}
    assert len(names) == 1
    assert ref.to_xarray(DIMS).chunk(time=5).mean().compute() == A.mean()


@pytest.mark.parametrize("dims", ["abc", ("a", "b"), 3, ("a", "b", "c", "d")])
def test_dims_that_do_not_fit_are_refused(stored: Stored, dims: Any) -> None:
    with pytest.raises(ArrayInvalidError, match="dims must name the 3 axes of the array, not"):
        stored(A).to_xarray(dims)


# Queries


@pytest.fixture
def session(table: MakeTable) -> Any:
    definition = "subject : varchar(8)\nday : date\n---\nmovie = null : <npy@>\nrate : float64"
    made = table(definition, "Session")
    made.insert(
        {"subject": subject, "day": date(2026, 11, day), "movie": A + day, "rate": day / 2}
        for subject, day in [("b", 3), ("a", 2), ("a", 1)]
    )
    return made


def test_a_query_becomes_one_along_its_key(recording: Any, opened: list[str]) -> None:
    for number in (7, 2, 5):
        recording.insert1({"recording_id": number, "waveform": A[:, :, 0] + number})
    opened.clear()
    found = dj_npy.to_xarray(recording & "recording_id > 2", "waveform", dims=("time", "channel"))
    assert opened == []
    assert found.name == "waveform"
    assert found.dims == ("recording_id", "time", "channel")
    assert found.recording_id.values.tolist() == [5, 7]
    assert np.array_equal(found.sel(recording_id=7).values, A[:, :, 0] + 7)
    assert {path.split("/")[-2] for path in opened} == {"recording_id=7"}
    assert found.sel(recording_id=[7, 5]).mean(("time", "channel")).values.tolist() == [
        A[:, :, 0].mean() + 7,
        A[:, :, 0].mean() + 5,
    ]


def test_a_key_of_several_attributes_becomes_a_multi_index(session: Any) -> None:
    found = dj_npy.to_xarray(session, "movie", dims=DIMS, coords=COORDS)
    assert found.dims == ("key", *DIMS)
    assert found.subject.values.tolist() == ["a", "a", "b"]
    assert np.array_equal(found.sel(subject="a", day=date(2026, 11, 2)).values, A + 2)
    assert found.sel(subject="a", time=0.2).shape == (2, 7, 10)
    assert found.sel(subject="b").mean(DIMS).values.tolist() == [A.mean() + 3]


def test_what_cannot_be_one_is_named(session: Any, recording: Any) -> None:
    day = {"subject": "c", "day": date(2026, 11, 1), "rate": 1.0}
    make: Callable[..., Any] = dj_npy.to_xarray
    for query, attribute, message in [
        (session & "subject = 'z'", "movie", "there are no references"),
        (session, "film", r"the query has no attribute 'film'; it has subject, day, movie, rate"),
        (session, "rate", r"refs\[0\] is no NpyRef, but float"),
        ([{"movie": 1}], "movie", "expected a table or a restriction of one.*not a list"),
    ]:
        with pytest.raises(ArrayInvalidError, match=message):
            make(query, attribute)
    session.insert1({**day, "movie": None})
    with pytest.raises(ArrayInvalidError, match=r"refs\[3\] is None.*IS NOT NULL"):
        make(session, "movie")
    assert make(session & "movie IS NOT NULL", "movie").shape == (3, *A.shape)
    session.insert1({**day, "day": date(2026, 11, 9), "movie": A[:5]})
    with pytest.raises(ArrayInvalidError, match=r"refs\[3\] has shape \(5, 7, 10\) \(path '.*day="):
        make(session & "movie IS NOT NULL", "movie")


def test_a_projection_is_a_query_too(session: Any) -> None:
    renamed = session.proj(who="subject", film="movie")
    assert dj_npy.to_xarray(renamed, "film").sel(who="b").shape == (1, *A.shape)


def test_a_missing_xarray_is_told(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, recording: Any
) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    for make in (stored(A).to_xarray, partial(dj_npy.to_xarray, recording, "waveform")):
        with pytest.raises(dj_npy.StoreError, match=r"pip install 'dj-npy\[xarray\]'"):
            make()
