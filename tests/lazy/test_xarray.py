"""References, and queries, as lazy `DataArray`s."""

import pickle
import sys
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dj_npy
from dj_npy import ArrayInvalidError, NpyRef
from dj_npy._lazy.coordinates import coordinate
from tests.conftest import MakeTable
from tests.lazy.test_dask import ranges
from tests.support.arrays import same
from tests.support.faults import proxy_of
from tests.support.servers import s3_settings

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
    assert np.array_equal(found.sel(subject="a", day="2026-11-02").values, A + 2)
    assert found.sel(subject="a", time=0.2).shape == (2, 7, 10)
    assert found.sel(subject="b").mean(DIMS).values.tolist() == [A.mean() + 3]


def test_coordinates_of_one_s_own_come_before_those_of_the_query(session: Any) -> None:
    rates = ("key", [7.0, 8.0, 9.0])
    found = dj_npy.to_xarray(session, "movie", "subject", "rate", coords={"rate": rates})
    assert found.rate.values.tolist() == [7, 8, 9]
    assert found.indexes["key"].names == ["subject", "day"]  # a level stays one if it is named


def test_one_level_leaves_an_axis_of_the_other(session: Any) -> None:
    found = dj_npy.to_xarray(session, "movie", dims=DIMS).sel(subject="a")
    assert found.dims == ("day", *DIMS)
    assert found.sel(day=slice("2026-11-02", None)).shape == (1, *A.shape)
    assert found.resample(day="2D").mean().mean(DIMS).values.tolist() == [A.mean() + 1.5]


@pytest.mark.parametrize("plain", [lambda a: a.reset_index("key"), lambda a: a.unstack("key")])
def test_a_multi_index_is_saved_as_plain_coordinates(
    plain: Any, session: Any, tmp_path: Path
) -> None:
    found = plain(dj_npy.to_xarray(session, "movie", "rate", dims=DIMS, coords=COORDS))
    saved_and_read(found, tmp_path)


def saved_and_read(array: Any, folder: Path) -> None:
    array.to_netcdf(folder / "a.nc", engine="h5netcdf")
    with xr.open_dataarray(folder / "a.nc", engine="h5netcdf", decode_timedelta=True) as back:
        xr.testing.assert_equal(back.load(), array.load())
        for name, at in array.coords.items():
            assert at.dtype == object or at.dtype == back[name].dtype, name


INSTANT = datetime(2026, 11, 2, 3, 4, 5, 678)
NOON, ID = timedelta(hours=12, microseconds=5), uuid.uuid4()
TYPES: dict[str, tuple[Any, Any, Any]] = {
    # what is inserted, the dtype as a coordinate, and the label there
    "int8": (5, np.int64, 5),
    "int16": (-5, np.int64, -5),
    "int32": (5, np.int64, 5),
    "int64": (2**62 + 1, np.int64, 2**62 + 1),
    "float32": (0.5, np.float64, 0.5),
    "float64": (0.1, np.float64, 0.1),
    "bool": (True, np.bool_, True),
    "uuid": (ID, object, str(ID)),
    "date": (date(2026, 1, 2), "M8[ns]", "2026-01-02"),
    "datetime": (datetime(2026, 11, 2, 3), "M8[ns]", "2026-11-02T03:00:00"),
    "datetime(6)": (INSTANT, "M8[ns]", np.datetime64(INSTANT)),
    "timestamp": (datetime(2026, 11, 2, 3), "M8[ns]", "2026-11-02T03:00:00"),
    "time": (timedelta(hours=12), "m8[ns]", "12:00:00"),
    "time(6)": (NOON, "m8[ns]", np.timedelta64(NOON)),
    "char(4)": ("ab", object, "ab"),
    "varchar(8)": ("aé", object, "aé"),
    "enum('x','y')": ("y", object, "y"),
    "decimal(6,2)": (Decimal("1.10"), np.float64, 1.1),
    "numeric": (5, np.float64, 5.0),
    "real": (0.5, np.float64, 0.5),
    "float": (0.5, np.float64, 0.5),
    "smallint": (5, np.int64, 5),
    # of some databases
    "text": ("any", object, "any"),
    "bytes": (b"ab", object, b"ab"),
    "year": (2026, np.int64, 2026),
    "bigint unsigned": (2**63 + 1, np.uint64, 2**63 + 1),
    "int unsigned": (5, np.int64, 5),
    "mediumint": (-5, np.int64, -5),
    "tinyint": (-5, np.int64, -5),
    "double": (0.25, np.float64, 0.25),
}
MYSQL_ONLY = {
    *("year", "bigint unsigned", "int unsigned", "mediumint", "tinyint", "double"),
    "uuid",
}
POSTGRESQL_ONLY = {"text", "bytes"}  # uuid: see docs/architecture.md


@pytest.mark.parametrize("half", [0, 1])  # MySQL has at most 16 attributes in a key
def test_each_type_of_key_on_each_database(
    table: MakeTable, database: Any, tmp_path: Path, half: int
) -> None:
    backend = database.connection.adapter.backend
    absent = POSTGRESQL_ONLY if backend == "mysql" else MYSQL_ONLY
    types = [name for name in TYPES if name not in absent][half::2]
    key = "".join(f"k{n} : {name}\n" for n, name in enumerate(types))
    others = "".join(f"v{n} = null : {name}\n" for n, name in enumerate(types))
    recording = table(f"number : int32\n{key}---\n{others}movie : <npy@>")
    keys = {f"k{n}": TYPES[name][0] for n, name in enumerate(types)}
    recording.insert1(
        {"number": 1, **keys, "movie": A, **{f"v{n}": TYPES[t][0] for n, t in enumerate(types)}}
    )
    recording.insert1({"number": 2, **keys, "movie": A + 1})
    names = [f"v{n}" for n in range(len(types))]
    found = dj_npy.to_xarray(recording, "movie", *names)
    missing = dj_npy.to_xarray(recording & "number = 2", "movie", *names)
    for n, name in enumerate(types):
        _, dtype, label = TYPES[name]
        level = found[f"k{n}"].values
        plain = coordinate(
            [row[f"k{n}"] for row in recording.to_dicts()], recording.heading[f"k{n}"]
        )
        assert plain.dtype == dtype, (name, plain.dtype)
        along = xr.DataArray(plain[:1], dims="k", coords={"k": plain[:1]})
        assert along.sel(k=label).size == 1, name
        assert level.tolist() == plain.tolist(), name
        with_null = found[f"v{n}"].values
        expected = plain.dtype.kind if plain.dtype.kind not in "iub" else "f"
        assert with_null.dtype.kind == expected, name
        assert with_null[0] == plain[0] or plain.dtype.kind in "iu", name
        assert xr.Variable("key", with_null).isnull().values.tolist() == [False, True], name
        assert missing[f"v{n}"].isnull().all(), name
        assert missing[f"v{n}"].dtype.kind in {expected, "f"}, name
    one = found[:1].reset_index("key")
    of_bytes = [name for name, at in one.coords.items() if isinstance(at.values[0], bytes)]
    saved_and_read(one.drop_vars(of_bytes), tmp_path)


def test_along_days_it_is_used_as_with_datetime64(table: MakeTable, tmp_path: Path) -> None:
    recording = table("day : date\n---\nmovie : <npy@>\nnote = null : varchar(8)")
    days = [date(2024, 1, 1), date(2024, 1, 2), date(2024, 2, 1)]
    recording.insert({"day": day, "movie": A + n, "note": "b"} for n, day in enumerate(days))
    found = dj_npy.to_xarray(recording, "movie", "note", dims=DIMS)
    assert found.day.dtype == "M8[ns]"
    assert np.array_equal(found.sel(day="2024-01-02"), A + 1)
    assert found.sel(day="2024-01").shape == (2, *A.shape)
    assert found.sel(day=slice("2024-01-02", "2024-03")).day.dt.day.values.tolist() == [2, 1]
    assert found.sel(day="2024-01-20", method="nearest").equals(found[2])
    by_month = found.groupby("day.month").mean(...).values.tolist()
    assert by_month == [A.mean() + 0.5, A.mean() + 2]
    assert found.resample(day="1MS").mean().mean(DIMS).values.tolist() == by_month
    between = found.interp(day="2024-01-01T06:00").values
    assert np.allclose(between, A + 0.25)
    assert found.groupby("note").sum("day").shape == (1, *A.shape)
    saved_and_read(found, tmp_path)
    zarr = pytest.importorskip("zarr")
    found.to_zarr(tmp_path / "a.zarr", consolidated=False)
    assert zarr.open(tmp_path / "a.zarr")["movie"].shape == (3, *A.shape)
    with xr.open_zarr(tmp_path / "a.zarr", consolidated=False) as back:
        xr.testing.assert_equal(back.movie.load(), found.load())


def test_one_reference_is_used_as_a_data_array(stored: Stored, tmp_path: Path) -> None:
    days = np.arange("2024-01-25", "2024-02-06", dtype="M8[D]").astype("M8[ns]")
    expected = xr.DataArray(A, dims=DIMS, coords={"time": days})
    array = stored(A).to_xarray(DIMS, {"time": days})
    for use in (
        lambda a: a.groupby("time.month").mean(),
        lambda a: a.resample(time="1MS").sum(),
        lambda a: a.interp(time="2024-01-25T12"),
        lambda a: a.rolling(time=3).mean(),
        lambda a: xr.concat([a, a], "again"),
        lambda a: a.to_dataset(name="movie").movie * 2,
        lambda a: a.weighted(xr.DataArray(np.arange(12.0), dims="time")).mean("time"),
    ):
        xr.testing.assert_allclose(use(array), use(expected))
    saved_and_read(array.rename("movie"), tmp_path)


def test_what_cannot_be_a_coordinate_is_named(table: MakeTable) -> None:
    recording = table("n : int32\n---\nmovie : <npy@>\nother : <npy@>\nnote : json\nb : <blob>")
    recording.insert1({"n": 1, "movie": A, "other": A, "note": {"a": 1}, "b": [1]})
    make: Callable[..., Any] = dj_npy.to_xarray
    for name, message in [
        ("other", "attribute 'other' cannot be a coordinate: <npy>"),
        ("b", "attribute 'b' cannot be a coordinate: <blob>"),
        ("note", "attribute 'note' cannot be a coordinate: dict"),
        ("film", "the query has no attribute 'film'; it has n, movie"),
    ]:
        with pytest.raises(ArrayInvalidError, match=message):
            make(recording, "movie", name)
    assert make(recording, "movie", "n").dims[0] == "n"


def test_values_of_columns_that_datajoint_does_not_declare() -> None:
    def of(*values: Any, type_: str = "") -> Any:
        attribute = SimpleNamespace(name="a", type=type_, original_type=None)
        return coordinate(values, attribute)

    ahead = timezone(timedelta(hours=2))
    assert of(INSTANT.replace(tzinfo=ahead))[0] == np.datetime64(INSTANT - timedelta(hours=2))
    assert of(time(1, tzinfo=ahead))[0] == np.timedelta64(-1, "h")
    assert np.isnat(of("0000-00-00", date(2024, 1, 1), type_="date")).tolist() == [True, False]
    assert of(10**30)[0] == 10**30
    assert of(date(1600, 1, 1), None).tolist() == [datetime(1600, 1, 1), None]
    assert of(timedelta(days=200_000)).tolist() == [timedelta(days=200_000)]


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
