"""What is refused names table, attribute and key, whichever way it was to be inserted."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import datajoint as dj
import numpy as np
import pandas as pd
import pytest
from datajoint.builtin_codecs.npy import NpyRef as BuiltinNpyRef

import dj_npy
from dj_npy import ArrayInvalidError, Blocks
from tests.conftest import MakeTable
from tests.support.servers import files

A = np.arange(12.0).reshape(4, 3)
one_database = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@pytest.fixture
def scans(table: MakeTable) -> Any:
    return table(
        "subject : varchar(9)\nscan : int32\n---\nimage=null : <npy@>\nmask=null : <npy@archive>",
        "Scan",
    )


def rows(bad: Any, at: int = 100, count: int = 1000) -> Iterator[dict[str, Any]]:
    for n in range(count):
        yield {"subject": "m1", "scan": n, "image": A, "mask": bad if n == at else A}


def address(table: Any, attribute: str, **key: Any) -> str:
    return f"{table.database}.{table.table_name}, attribute {attribute}, key {key}: "


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "insert": lambda table, bad: table.insert(rows(bad)),
    "insert of a list": lambda table, bad: table.insert(list(rows(bad))),
    "insert1": lambda table, bad: table.insert1(next(rows(bad, 0)) | {"scan": 100}),
    "dj_npy.insert": lambda table, bad: dj_npy.insert(table, rows(bad)),
    "dj_npy.insert of a list": lambda table, bad: dj_npy.insert(table, list(rows(bad))),
    "in chunks": lambda table, bad: dj_npy.insert(table, rows(bad), chunk_size=70),
    "skip_duplicates": lambda table, bad: dj_npy.insert(table, rows(bad), skip_duplicates=True),
    "ignore_extra_fields": lambda table, bad: table.insert(rows(bad), ignore_extra_fields=True),
    "update1": lambda table, bad: table.update1({"subject": "m1", "scan": 100, "mask": bad}),
}


@pytest.mark.parametrize("way", WAYS)
@one_database
def test_a_list_in_row_101_of_1000(scans: Any, store: Path, way: str) -> None:
    if way == "update1":
        scans.insert1({"subject": "m1", "scan": 100})
    with pytest.raises(ArrayInvalidError) as told:
        WAYS[way](scans, [1, 2, 3])
    found = address(scans, "mask", subject="m1", scan=100)
    assert str(told.value) == f"{found}<npy> requires numpy.ndarray, got list"
    # A chunk is a statement of its own.
    assert len(scans & "mask IS NOT NULL") == (70 if way == "in chunks" else 0)
    assert len(files(store)) == len(scans & "image IS NOT NULL")


def test_on_each_database_and_with_replace(scans: Any, database: Any) -> None:
    replaces = database.connection.adapter.backend == "mysql"  # DataJoint can on these only
    with pytest.raises(
        ArrayInvalidError, match=re.escape(address(scans, "mask", subject="m1", scan=3))
    ):
        scans.insert(rows([1], 3, 5), replace=replaces)
    with pytest.raises(
        ArrayInvalidError, match=re.escape(address(scans, "mask", subject="m1", scan=3))
    ):
        dj_npy.insert(scans, rows(1.5, 3, 5), replace=replaces)


class Metres(np.ndarray):
    unit = "m"


def metres() -> Any:
    array = A.view(Metres)
    array.__dict__["unit"] = "cm"
    return array


BIG = np.zeros((300, 400))
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "a list": (lambda: [1.0], "got list$"),
    "a tuple": (lambda: (1.0,), "got tuple$"),
    "a number": (lambda: 3, "got int$"),
    "a scalar": (lambda: np.float32(3), "got float32$"),
    "a text": (lambda: "scan.npy", "got str$"),
    "bytes": (lambda: b"1", "got bytes$"),
    "a dict": (lambda: {"path": "x"}, "got dict$"),
    "NaN": (lambda: float("nan"), "got float, which stands where None is meant.*df.notna"),
    "NaN of NumPy": (lambda: np.float32("nan"), "got float32, which stands where None is meant"),
    "NA": (lambda: pd.NA, "got NAType, which stands where None is meant"),
    "NaT": (lambda: pd.NaT, "got NaTType, which stands where None is meant"),
    "objects": (lambda: np.array([{}], object), "object dtype"),
    "a masked array": (lambda: np.ma.masked_array(BIG, BIG == 0), r"array\.filled"),
    "units": (metres, "Metres carries more"),
    "a Series": (lambda: pd.Series(BIG[0]), r"got Series: insert numpy\.asarray\(series\)"),
    "a DataFrame": (lambda: pd.DataFrame(BIG), r"got DataFrame: insert numpy\.asarray"),
    "a tensor": (
        lambda: pytest.importorskip("torch").zeros(300, 400),
        r"got Tensor: insert numpy\.asarray\(tensor\)",
    ),
    "another package's reference": (
        lambda: BuiltinNpyRef({"path": "x", "store": "main", "dtype": "f8", "shape": [3]}, None),
        r"got NpyRef: insert numpy\.asarray\(npyref\)",
    ),
    "metadata": (
        lambda: np.zeros(3, np.dtype("f8", metadata={"a": 1})),
        "cannot store the metadata",
    ),
    "Dask objects": (lambda: da.ones(3, dtype=object, chunks=1), "object dtype"),
    "blocks too few": (lambda: Blocks((9, 3), "f8", [A, A]), "were 8 rows in all"),
    "blocks too many": (lambda: Blocks((3, 3), "f8", [A]), "are 4 rows or more"),
    "blocks of another shape": (lambda: Blocks((4, 2), "f8", [A]), r"must have shape \(n, 2\)"),
    "blocks of another dtype": (lambda: Blocks((4, 3), "f4", [A]), "must have dtype float32"),
    "blocks that are lists": (lambda: Blocks((4, 3), "f8", [[1]]), "got list$"),
}


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize("what", BAD)
@one_database
def test_whatever_is_refused(scans: Any, store: Path, what: str, bulk: bool) -> None:
    make, message = BAD[what]
    row = {"subject": "m1", "scan": np.int64(7), "image": A, "mask": make()}
    with pytest.raises(ArrayInvalidError, match=message) as told:
        dj_npy.insert(scans, [row]) if bulk else scans.insert1(row)
    assert str(told.value).startswith(address(scans, "mask", subject="m1", scan=7))
    assert str(told.value).count("attribute mask") == 1
    assert len(str(told.value)) < 500
    assert files(store) == set()


class Movie(dj_npy.NpyCodec):
    name = "test_movie"

    def validate(self, value: Any) -> None:
        super().validate(value)
        if value.ndim != 3:
            raise dj.DataJointError("a movie has three axes")


@pytest.mark.parametrize("bulk", [False, True])
@one_database
def test_a_codec_that_inherits_the_check_can_rely_on_it(table: MakeTable, bulk: bool) -> None:
    movies = table("id : int32\n---\nmovie : <test_movie@>", "Film")
    for value, message in (([1.0], "got list$"), (A, "three axes")):
        rows = [{"id": 1, "movie": value}]
        with pytest.raises(dj.DataJointError, match=message):
            dj_npy.insert(movies, rows) if bulk else movies.insert(rows)


@one_database
def test_an_exception_of_the_blocks_is_noted(scans: Any) -> None:
    def frames() -> Iterator[Any]:
        yield A
        raise OSError("the camera is gone")

    row = {"subject": "m1", "scan": 7, "mask": Blocks((40, 3), "f8", frames())}
    with pytest.raises(OSError, match=r"^the camera is gone\n") as told:
        scans.insert1(row)
    assert str(told.value) == "the camera is gone"
    found = address(scans, "mask", subject="m1", scan=7)[:-2]
    assert told.value.__notes__ == [f"While an array was written: {found}"]


@one_database
def test_the_key_may_be_anything(scans: Any) -> None:
    for value, shown in [
        (BIG, "an ndarray of shape"),
        ([1] * 10_000, "a list"),
        ("x" * 9999, "xxx"),
    ]:
        with pytest.raises(ArrayInvalidError, match=f"key .*{shown}") as told:
            scans.insert1({"subject": value, "scan": 1, "mask": [1]})
        assert len(str(told.value)) < 400


@one_database
def test_of_parts_and_computed_tables(schema: Any, recording: Any) -> None:
    recording.insert1({"recording_id": 5, "waveform": A})

    @schema
    class Spectrum(dj.Computed):
        definition = "-> recording"

        class Band(dj.Part):
            definition = "-> master\nband : int32\n---\npower : <npy@>"

        def make(self, key: dict[str, Any]) -> None:
            self.insert1(key)
            self.Band.insert1({**key, "band": 2, "power": [1.0]})

    found = address(Spectrum.Band, "power", recording_id=5, band=2)
    assert "__spectrum__band, attribute power" in found
    with pytest.raises(ArrayInvalidError, match=re.escape(found)):
        Spectrum.populate()
    Spectrum.populate(suppress_errors=True)
    assert not len(Spectrum())


@one_database
def test_of_a_merge_that_left_none(scans: Any) -> None:
    left = pd.DataFrame({"subject": ["m1", "m2"], "scan": [1, 2]})
    right = pd.DataFrame({"subject": ["m1"], "image": [A]})
    merged = left.merge(right, how="left")
    with pytest.raises(ArrayInvalidError, match=r"attribute image, key .*m2.*None is meant"):
        scans.insert(merged)
    scans.insert(merged.astype(object).where(merged.notna(), None))
    assert [ref is None for ref in scans.to_arrays("image", order_by="subject")] == [False, True]


@pytest.mark.parametrize("bulk", [False, True])
@one_database
def test_of_a_date_that_the_driver_does_not_take(table: MakeTable, store: Path, bulk: bool) -> None:
    days = table("day : date\nsince : time\n---\nimage : <npy@>", "Day")
    frame = pd.DataFrame(
        {"day": pd.to_datetime(["2024-01-07"]), "since": [pd.Timedelta("3h")], "image": [A]}
    )
    row = frame.to_dict("records")[0]
    for name, value in (("day", row["day"]), ("since", row["since"])):
        given = [{**row, name: value.to_numpy()}]
        with pytest.raises(ArrayInvalidError, match=rf"attribute image, key .*, of {name}: use"):
            dj_npy.insert(days, given) if bulk else days.insert(given)
    with pytest.raises(ArrayInvalidError, match=r"attribute image, key .*2024.*, of day: use"):
        dj_npy.insert(days, frame) if bulk else days.insert(frame)
    assert files(store) == set()
    days.insert(frame.astype(object))
    assert days.fetch1("image").path.endswith("day=2024-01-07/since=03-00-00/image.npy")


def test_a_view_is_inserted_as_its_array(scans: Any, recording: Any) -> None:
    complex_array = A + 1j
    scans.insert1({"subject": "m1", "scan": 0, "image": complex_array})
    ref = scans.fetch1("image")
    scans.insert1({"subject": "m1", "scan": 1, "image": ref.T, "mask": ref.imag})
    more = [
        {"subject": "m1", "scan": 2 + n, "image": view} for n, view in enumerate((ref.mT, ref.flat))
    ]
    dj_npy.insert(scans, iter(more))
    stored = scans.to_dicts(order_by="scan")
    for row, name, expected in [
        (1, "image", complex_array.T),
        (1, "mask", complex_array.imag),
        (2, "image", complex_array.T),
        (3, "image", complex_array.ravel()),
    ]:
        np.testing.assert_array_equal(stored[row][name].load(), expected)
        assert stored[row][name].verify() == "as inserted"
    scans.update1({"subject": "m1", "scan": 1, "image": ref.real})
    assert (scans & "scan = 1").fetch1("image").dtype == "f8"


@one_database
def test_a_reference_is_no_row(recording: Any, opened: list[str]) -> None:
    recording.insert1({"recording_id": 1, "waveform": A})
    ref = recording.fetch1("waveform")
    for insert in (recording.insert, lambda rows: dj_npy.insert(recording, rows)):
        with pytest.raises(ArrayInvalidError, match="a row is a dict"):
            insert([ref])
    assert opened == []
    assert not ref.is_loaded
