"""Many arrays at once: `load`, `stream`, `insert`, `Blocks`."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pandas
import pytest
from datajoint.errors import DataJointError, DuplicateError

import dj_npy
from tests.support.faults import proxy_of
from tests.support.servers import files, s3_settings

Stored = Callable[..., dj_npy.NpyRef]
MakeTable = Callable[..., Any]
WAVEFORM = np.arange(12.0).reshape(3, 4)


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name == "dj-npy"}


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    until = time.monotonic() + 2
    while threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert not threads()


@pytest.fixture
def s3(moto: str) -> dict[str, Any]:
    return s3_settings(moto, location=f"bulk/{uuid.uuid4().hex}")


# --- load ------------------------------------------------------------------------------------


def test_load_returns_arrays_in_order_whatever_the_refs_are(
    stored: Stored, s3: dict[str, Any], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    elsewhere = {"protocol": "file", "location": str(other)}
    arrays = [np.full((n, 3), n, order="F") for n in range(90)]
    large = np.arange(1 << 18, dtype="f8")
    refs: list[Any] = [stored(array, n) for n, array in enumerate(arrays)]
    refs += [stored(array, n, store=s3) for n, array in enumerate(arrays[:20])]
    refs += [stored(large, 200), None, stored(large, 201, store=s3), refs[3], refs[91]]
    refs += [stored(WAVEFORM, 1, store=elsewhere)]
    refs[5].load()
    expected = [*arrays, *arrays[:20], large, None, large, arrays[3], arrays[1], WAVEFORM]
    for workers in (1, 16):
        found = dj_npy.load(iter(refs), max_workers=workers)
        assert len(found) == len(expected)
        for ref, array, right in zip(refs, found, expected, strict=True):
            if right is None:
                assert array is None
                continue
            np.testing.assert_array_equal(array, right)
            assert array.dtype == right.dtype
            assert array.flags.f_contiguous == right.flags.f_contiguous
            assert ref.load() is array
        for ref in refs:
            if ref is not None:
                ref.unload()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3)),
        np.array(3.5),
        np.arange(5, dtype=">i2"),
        np.zeros(3, [("a", "i4"), ("b", "U3")]),
        np.array(["2020-01-01"], "datetime64[D]"),
    ],
)
def test_load_knows_every_kind_of_array(stored: Stored, array: Any) -> None:
    for found in dj_npy.load([stored(array, n) for n in range(3)]):
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        np.testing.assert_array_equal(found, array)


def test_load_of_rows(recording: Any) -> None:
    recording.insert([{"recording_id": n, "waveform": WAVEFORM + n} for n in range(5)])
    rows = dj_npy.load(recording.to_dicts())
    assert [row["recording_id"] for row in rows] == list(range(5))
    for n, row in enumerate(rows):
        np.testing.assert_array_equal(row["waveform"], WAVEFORM + n)


def test_load_raises_what_is_wrong_with_the_first(stored: Stored, store: Path) -> None:
    refs = [stored(WAVEFORM, n) for n in range(200)]
    (store / refs[150].path).unlink()
    (store / refs[70].path).write_bytes(b"no such file")
    with pytest.raises(dj_npy.ArrayCorruptError, match="recording_id=70/"):
        dj_npy.load(refs)
    assert dj_npy.load([]) == []


@pytest.mark.parametrize("bad", [3, WAVEFORM, "text"])
def test_what_is_no_reference_is_told(stored: Stored, bad: Any) -> None:
    with pytest.raises(dj_npy.ArrayInvalidError, match="expected an NpyRef"):
        dj_npy.load([stored(WAVEFORM), bad])
    with pytest.raises(dj_npy.ArrayInvalidError, match="is no NpyRef"):
        dj_npy.load([{"a": bad}], "a")
    with pytest.raises(dj_npy.ArrayInvalidError, match="max_workers"):
        dj_npy.load([], max_workers=0)


def test_two_threads_that_load_the_same_download_it_once(
    stored: Stored, moto: str, s3: dict[str, Any]
) -> None:
    with proxy_of(moto) as proxy:
        settings = {**s3, "endpoint": proxy.endpoint}
        refs = [stored(WAVEFORM + n, n, store=settings) for n in range(20)]
        before = len(proxy.asked("GET"))
        found: list[Any] = []
        both = [threading.Thread(target=lambda: found.append(dj_npy.load(refs))) for _ in "ab"]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        assert len(proxy.asked("GET")) - before == 20
    assert all(a is b for a, b in zip(*found, strict=True))


# --- stream ----------------------------------------------------------------------------------


def test_stream_is_in_order_and_keeps_nothing(stored: Stored, s3: dict[str, Any]) -> None:
    refs: list[Any] = [
        stored(WAVEFORM + n, n, store=s3 if n % 3 else None or s3) for n in range(40)
    ]
    refs.insert(7, None)
    for n, array in enumerate(dj_npy.stream(refs)):
        if n == 7:
            assert array is None
            continue
        np.testing.assert_array_equal(array, WAVEFORM + (n if n < 7 else n - 1))
        array += 1  # it is the caller's own
        assert not refs[n].is_loaded


def test_stream_yields_rows_with_arrays(recording: Any) -> None:
    recording.insert([{"recording_id": n, "waveform": WAVEFORM + n} for n in range(9)])
    rows = list(dj_npy.stream(recording.to_dicts(), "waveform"))
    assert [row["recording_id"] for row in rows] == list(range(9))
    np.testing.assert_array_equal(rows[4]["waveform"], WAVEFORM + 4)


def test_stream_reads_ahead_within_its_budget(stored: Stored, s3: dict[str, Any]) -> None:
    array = np.zeros(1 << 16)
    stored(array, 0, store=s3)
    drawn: list[int] = []

    def refs() -> Iterator[Any]:
        for n in range(30):
            drawn.append(n)
            yield stored(array, n, store=s3)

    stream = dj_npy.stream(refs(), max_bytes=4 * array.nbytes)  # twice as much while they come
    next(stream)
    assert len(drawn) <= 5
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)
    with pytest.raises(dj_npy.ArrayInvalidError, match="max_bytes"):
        dj_npy.stream([], max_bytes="much")


def test_a_stream_that_is_left_stops(stored: Stored, s3: dict[str, Any]) -> None:
    refs = [stored(WAVEFORM, n, store=s3) for n in range(30)]
    for _ in dj_npy.stream(refs):
        break
    with dj_npy.stream(refs) as arrays:
        next(arrays)
    until = time.monotonic() + 5  # what is under way is waited for less long
    while threads() and time.monotonic() < until:
        time.sleep(0.01)
    assert not threads()


def test_an_error_comes_when_it_is_its_turn(stored: Stored, store: Path) -> None:
    refs = [stored(WAVEFORM, n) for n in range(10)]
    (store / refs[6].path).unlink()
    stream = dj_npy.stream(refs)
    for _ in range(6):
        next(stream)
    with pytest.raises(dj_npy.ArrayMissingError):
        next(stream)

    def failing() -> Iterator[Any]:
        yield refs[0]
        raise OSError("the camera is gone")

    stream = dj_npy.stream(failing())
    next(stream)
    with pytest.raises(OSError, match="the camera is gone"):
        next(stream)


# --- insert ----------------------------------------------------------------------------------


def test_insert_takes_rows_as_table_insert_does(recording: Any) -> None:
    rows = [{"recording_id": n, "waveform": WAVEFORM + n} for n in range(4)]
    records = np.zeros(1, [("recording_id", "i4"), ("waveform", "O")])
    records[0]["recording_id"], records[0]["waveform"] = 20, WAVEFORM + 20
    subarray = np.zeros(1, [("recording_id", "i4"), ("waveform", "f8", (3, 4))])
    subarray[0]["recording_id"], subarray[0]["waveform"] = 21, WAVEFORM + 21
    dj_npy.insert(recording, rows)
    dj_npy.insert(recording(), ({**row, "recording_id": 10 + i} for i, row in enumerate(rows)))
    dj_npy.insert(recording, records)
    dj_npy.insert(recording, subarray)
    frame = {"recording_id": [30, 31], "waveform": [WAVEFORM, WAVEFORM + 1]}
    dj_npy.insert(recording, pandas.DataFrame(frame))
    with pytest.warns(DeprecationWarning, match="Positional"):
        dj_npy.insert(recording, [(40, WAVEFORM + 40)])
    dj_npy.insert(
        recording, [{"recording_id": 50, "waveform": recording.to_dicts()[1]["waveform"]}]
    )
    dj_npy.insert(
        recording, [{"recording_id": n, "waveform": WAVEFORM} for n in (60, 61, 62)], chunk_size=2
    )
    found = {row["recording_id"]: row["waveform"].load() for row in recording.to_dicts()}
    assert set(found) == {0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 30, 31, 40, 50, 60, 61, 62}
    for n in (3, 20, 21, 40):
        np.testing.assert_array_equal(found[n], WAVEFORM + n)
    np.testing.assert_array_equal(found[13], WAVEFORM + 3)
    np.testing.assert_array_equal(found[50], WAVEFORM + 1)
    for row in recording.to_dicts():
        assert row["waveform"].path.endswith(f"recording_id={row['recording_id']}/waveform.npy")
        assert row["waveform"].verify() == "as inserted"


def test_rows_made_in_the_same_memory_are_each_as_they_were(
    recording: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer, row = np.zeros((3, 4)), dict[str, Any]()

    def rows() -> Iterator[Any]:
        for n in range(40):
            buffer[:] = n
            row.update(recording_id=n, waveform=buffer)
            yield row

    dj_npy.insert(recording, rows())
    monkeypatch.setattr(
        "dj_npy._datajoint.insertion._COPIED", 10
    )  # now they are too large to be copied
    dj_npy.insert(recording, ({**r, "recording_id": 100 + r["recording_id"]} for r in rows()))
    for each in recording.to_dicts():
        np.testing.assert_array_equal(each["waveform"].load(), float(each["recording_id"] % 100))


BAD = {
    "a list": {"recording_id": 57, "waveform": [1]},
    "masked": {"recording_id": 57, "waveform": np.ma.masked_array([1.0], [True])},
    "other fields": {"recording_id": 57},
    "no key": {"waveform": WAVEFORM},
    "a duplicate": {"recording_id": 56, "waveform": WAVEFORM},
    "no row": 57,
    "no number": {"recording_id": "x", "waveform": WAVEFORM},
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore:Positional inserts:DeprecationWarning")
def test_a_bad_row_leaves_nothing_and_the_error_is_that_of_table_insert(
    recording: Any, store: Path, kind: str
) -> None:
    rows: list[Any] = [{"recording_id": n, "waveform": WAVEFORM} for n in range(100)]
    rows[57] = BAD[kind]
    told = []
    for insert in (recording.insert, lambda rows: dj_npy.insert(recording, rows)):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            insert(rows)
        told.append((type(caught.value), str(caught.value)))
        assert not recording()
        assert files(store) == set()
    assert told[0] == told[1]


def test_in_a_transaction(recording: Any, store: Path) -> None:
    with recording.connection.transaction:
        dj_npy.insert(recording, [{"recording_id": n, "waveform": WAVEFORM} for n in range(5)])
    before = files(store)
    assert len(before) == 5
    with pytest.raises(DuplicateError), recording.connection.transaction:
        dj_npy.insert(recording, [{"recording_id": n, "waveform": WAVEFORM} for n in (7, 8, 3)])
    assert files(store) == before
    assert len(recording()) == 5


@pytest.mark.parametrize("transaction", [False, True])
def test_skipped_duplicates_leave_nothing(recording: Any, store: Path, transaction: bool) -> None:
    dj_npy.insert(recording, [{"recording_id": n, "waveform": WAVEFORM} for n in range(5)])
    before = files(store)
    rows = [{"recording_id": n, "waveform": WAVEFORM + 1} for n in range(8)]
    if transaction:
        with recording.connection.transaction:
            dj_npy.insert(recording, rows, skip_duplicates=True)
    else:
        dj_npy.insert(recording, rows, skip_duplicates=True)
    assert len(files(store) - before) == 3
    assert before < files(store)
    for row in recording.to_dicts():
        expected = WAVEFORM + (row["recording_id"] >= 5)
        np.testing.assert_array_equal(row["waveform"].load(), expected)


def test_skipped_duplicates_with_the_longest_names(table: MakeTable, store: Path) -> None:
    many = table(
        "a : varchar(255)\nb : varchar(255)\nc : varchar(255)\n---\nwaveform : <npy@>", "Many"
    )
    rows = [
        {"a": f"é{n}" + "ü" * 200, "b": "'" * 200, "c": "%s" * 100, "waveform": WAVEFORM}
        for n in range(3)
    ]
    dj_npy.insert(many, rows)
    dj_npy.insert(many, rows, skip_duplicates=True)
    assert files(store) == {row["waveform"].path for row in many.to_dicts()}
    for row in many.to_dicts():
        row["waveform"].verify()


def test_replace(recording: Any, store: Path) -> None:
    dj_npy.insert(recording, [{"recording_id": 1, "waveform": WAVEFORM}])
    before, row = files(store), {"recording_id": 1, "waveform": WAVEFORM + 1}
    if recording.connection.adapter.backend == "postgresql":  # which has no REPLACE
        with pytest.raises(DataJointError):
            dj_npy.insert(recording, [row], replace=True)
        assert files(store) == before
        return
    dj_npy.insert(recording, [row], replace=True)
    np.testing.assert_array_equal(recording.fetch1("waveform").load(), WAVEFORM + 1)
    assert before < files(store)  # nothing is ever overwritten


def test_in_make_with_a_part(schema: Any, recording: Any) -> None:
    recording.insert([{"recording_id": n, "waveform": WAVEFORM} for n in range(3)])

    class Analysis(dj.Computed):
        definition = "-> Recording\n---\nmean : <npy@>"

        class Unit(dj.Part):
            definition = "-> master\nunit : int32\n---\nspikes : <npy@>\nshape : <npy@>"

        def make(self, key: Any) -> None:
            dj_npy.insert(self, [{**key, "mean": WAVEFORM}])
            units = [{**key, "unit": n, "spikes": WAVEFORM, "shape": WAVEFORM} for n in range(4)]
            dj_npy.insert(self.Unit, units)

    analysis = schema(Analysis, context={"Recording": recording})
    analysis.populate()
    assert len(analysis.Unit()) == 12
    with pytest.raises(DataJointError, match="auto-populated"):
        dj_npy.insert(analysis, [{"recording_id": 1, "mean": WAVEFORM}])


# --- Blocks ----------------------------------------------------------------------------------


def test_blocks_are_written_as_they_come(recording: Any, store: Path) -> None:
    whole = np.arange(600.0).reshape(100, 3, 2)
    buffer = np.empty((10, 3, 2))

    def in_one_buffer() -> Iterator[Any]:
        for first in range(0, 100, 10):
            buffer[:] = whole[first : first + 10]
            yield buffer

    given = [
        dj_npy.Blocks((100, 3, 2), "f8", in_one_buffer()),
        dj_npy.Blocks(
            whole.shape, whole.dtype, [whole[:1], whole[1:1], np.asfortranarray(whole[1:])]
        ),
        dj_npy.Blocks((0, 3, 2), float, []),
    ]
    dj_npy.insert(recording, [{"recording_id": n, "waveform": b} for n, b in enumerate(given)])
    recording.insert1(
        {"recording_id": 9, "waveform": dj_npy.Blocks(whole.shape, "f8", np.split(whole, 10))}
    )
    refs = recording.to_arrays("waveform", order_by="recording_id")
    for ref in (*refs[:2], refs[3]):
        np.testing.assert_array_equal(ref.load(), whole)
        assert ref.verify() == "as inserted"
        np.testing.assert_array_equal(np.load(store / ref.path), whole)
    assert refs[2].load().shape == (0, 3, 2)


class Chunk:
    """As a Dask array's block: an array once NumPy asks for it."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._array


def test_blocks_may_be_what_numpy_takes_for_arrays(recording: Any) -> None:
    whole = np.arange(40.0).reshape(20, 2)
    blocks = [Chunk(part) for part in np.split(whole, 4)]
    dj_npy.insert(
        recording, [{"recording_id": 1, "waveform": dj_npy.Blocks((20, 2), "f8", blocks)}]
    )
    np.testing.assert_array_equal(recording.fetch1("waveform").load(), whole)


@pytest.mark.parametrize(
    ("blocks", "told"),
    [
        ([Chunk(np.zeros((10, 2), "f4"))], "dtype float64"),
        ([np.zeros((5, 2))], "5 rows in all"),
        ([np.zeros((5, 2)), np.zeros((6, 2))], "11 rows or more"),
        ([np.zeros((10, 3))], r"shape \(n, 2\)"),
        ([np.zeros(10)], r"shape \(n, 2\)"),
        ([np.zeros((10, 2), "f4")], "dtype float64"),
        ([[[1.0, 2.0]]], "got list"),
        ([np.ma.zeros((10, 2))], "masked"),
    ],
)
@pytest.mark.parametrize("bulk", [False, True])
def test_blocks_that_are_not_what_was_promised_leave_nothing(
    recording: Any, store: Path, blocks: Any, told: str, bulk: bool
) -> None:
    rows = [
        {"recording_id": 1, "waveform": WAVEFORM},
        {"recording_id": 2, "waveform": dj_npy.Blocks((10, 2), "f8", blocks)},
    ]
    with pytest.raises(dj_npy.ArrayInvalidError, match=told):
        dj_npy.insert(recording, rows) if bulk else recording.insert(rows)
    assert files(store) == set()
    assert not recording()


def test_what_the_blocks_raise_is_raised(recording: Any, store: Path) -> None:
    def failing() -> Iterator[Any]:
        yield np.zeros((5, 2))
        raise OSError("the camera is gone")

    row = {"recording_id": 1, "waveform": dj_npy.Blocks((10, 2), "f8", failing())}
    with pytest.raises(OSError, match=r"^the camera is gone\n") as told:
        recording.insert1(row)
    assert str(told.value) == "the camera is gone"
    address = f"{recording.database}.recording, attribute waveform, key {{'recording_id': 1}}"
    assert told.value.__notes__ == [f"While an array was written: {address}"]
    assert files(store) == set()


@pytest.mark.parametrize("shape", [(), (3, -1), 5, ("a",), None])
def test_blocks_of_no_shape(shape: Any) -> None:
    with pytest.raises(dj_npy.ArrayInvalidError):
        dj_npy.Blocks(shape, "f8", [])
    with pytest.raises(dj_npy.ArrayInvalidError):
        dj_npy.Blocks((3,), object, [])
    with pytest.raises(dj_npy.ArrayInvalidError):
        dj_npy.Blocks((3,), "f8", 3)  # type: ignore[arg-type]


# --- progress --------------------------------------------------------------------------------


def test_progress_is_told_in_bytes_and_files(
    recording: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(first: int) -> list[Any]:
        return [{"recording_id": first + n, "waveform": np.zeros(1024)} for n in range(20)]

    dj_npy.insert(recording, rows(0))
    dj_npy.load(recording.to_arrays("waveform"))
    assert capsys.readouterr().err == ""
    dj_npy.insert(recording, rows(50), progress=True)
    list(dj_npy.stream(recording.to_dicts(), progress=True))
    told = capsys.readouterr().err
    assert "160k/160k" in told
    assert "20/20 files" in told
    assert "320k/320k" in told
    assert "40/40 files" in told


def test_a_generator_yields_rows_of_any_kind(recording: Any) -> None:
    recording.insert1({"recording_id": 0, "waveform": WAVEFORM})
    ref = recording.fetch1("waveform")
    [record] = np.array([(1, WAVEFORM)], [("recording_id", "i8"), ("waveform", "O")])
    blocks = dj_npy.Blocks(WAVEFORM.shape, WAVEFORM.dtype, [WAVEFORM])
    copied = {"recording_id": 3, "waveform": ref}
    in_blocks = {"recording_id": 4, "waveform": blocks}
    with pytest.warns(DeprecationWarning, match="Positional"):
        dj_npy.insert(recording, iter([record, [2, WAVEFORM], copied, in_blocks]))
    assert len(recording()) == 5
    assert all(np.array_equal(each, WAVEFORM) for each in recording.to_arrays("waveform"))
