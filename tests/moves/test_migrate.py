"""`migrate`: columns of other types become `<npy@>`, and back, with every value as it was."""

from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

import dj_npy
from dj_npy import NpyRef
from tests.conftest import MakeTable
from tests.support.servers import files

ARRAYS: list[Any] = [
    np.arange(100.0).reshape(10, 10),
    np.arange(6, dtype=np.int16),
    np.array(3.5),
    np.zeros((0, 4), np.float32),
    np.random.default_rng(0).normal(size=(300, 7)),
    np.array([[True, False]]),
    np.arange(3) + 1j,
    np.array(["2020-01-01", "NaT"], "datetime64[us]"),
    np.rec.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")]),
]


def same(found: Any, array: Any) -> None:
    found = np.asarray(found)
    assert (found.dtype, found.shape) == (np.asarray(array).dtype, np.shape(array))
    assert found.tobytes() == np.asarray(array).tobytes()


def check(table: Any, arrays: list[Any] = ARRAYS) -> None:
    found = table.to_dicts(order_by="recording_id")
    assert [row["recording_id"] for row in found] == list(range(len(arrays)))
    for row, array in zip(found, arrays, strict=True):
        if array is None:
            assert row["waveform"] is None
        else:
            same(row["waveform"], array)


def fill(table: Any, arrays: list[Any] = ARRAYS) -> Any:
    table.insert([{"recording_id": n, "waveform": a} for n, a in enumerate(arrays)])
    return table()


@pytest.fixture
def blobs(table: MakeTable) -> Any:
    return fill(table("recording_id : int32\n---\nwaveform : <blob>  # of a rig\ngain=1 : float64"))


def migrate(table: Any, step: Any, **options: Any) -> Any:
    return dj_npy.migrate(again(table), "waveform", step=step, scalars=True, **options)


def columns(table: Any) -> list[str]:
    """All columns, also those that DataJoint hides."""
    heading = again(table).heading
    assert heading.attributes
    return [*heading._attributes]


def again(table: Any) -> Any:
    """The table as another process finds it."""
    return dj.FreeTable(table.connection, table.full_table_name)


def test_there_and_back(blobs: Any, store: Path) -> None:
    found = migrate(blobs, "survey")
    assert found.ok, str(found)
    assert (found.rows, found.state) == (len(ARRAYS), "not begun")
    assert found.definition == ["waveform : <npy@>  # of a rig"]
    check(again(blobs))
    copied = migrate(blobs, "copy")
    assert copied.ok, str(copied)
    assert (copied.rows, copied.to_do, copied.state) == (len(ARRAYS), 0, "copying")
    check(again(blobs))
    assert not any(isinstance(row["waveform"], NpyRef) for row in again(blobs))
    switched = migrate(blobs, "switch")
    assert switched.ok, str(switched)
    assert (switched.rows, switched.state) == (0, "switched")
    check(again(blobs))
    assert all(isinstance(row["waveform"], NpyRef) for row in again(blobs))
    # Blobs are in Fortran order, whatever was inserted; files are not.
    assert not any("fortran_order" in row["waveform"]._raw for row in again(blobs))
    assert dj_npy.verify(again(blobs), checksums=True).counts == {"as inserted": len(ARRAYS)}
    finished = migrate(blobs, "finish")
    assert (finished.ok, finished.state) == (True, "not begun")
    check(again(blobs))
    assert columns(blobs) in (
        ["recording_id", "waveform", "gain"],
        ["recording_id", "gain", "waveform"],  # PostgreSQL adds columns at the end
    )
    attribute = again(blobs).heading["waveform"]
    assert (attribute.nullable, attribute.comment) == (False, "of a rig")
    assert len(files(store)) == len(ARRAYS)
    for step in ("survey", "copy", "switch", "finish"):
        found = migrate(blobs, step, to="blob")
        assert found.ok, str(found)
        check(again(blobs))
    assert again(blobs).heading["waveform"].type == "<blob>"
    assert (found.removed, len(files(store))) == (len(ARRAYS), 0)


def test_rows_of_after_the_switch_are_undone_too(blobs: Any, store: Path) -> None:
    migrate(blobs, "switch")
    new = again(blobs)
    more = [*ARRAYS, np.arange(5.0)]
    new.insert1({"recording_id": len(ARRAYS), "waveform": more[-1]})
    new.update1({"recording_id": 1, "waveform": np.ones(3)})
    more[1] = np.ones(3)
    (new & "recording_id = 0").delete(prompt=False)
    new.insert1({"recording_id": 0, "waveform": np.zeros(2)})
    more[0] = np.zeros(2)
    check(new, more)
    undone = migrate(new, "undo")
    assert (undone.ok, undone.rows, undone.state) == (True, 3, "not begun"), str(undone)
    check(again(blobs), more)
    assert again(blobs).heading["waveform"].type == "<blob>"
    assert columns(blobs) == ["recording_id", "waveform", "gain"]
    assert again(blobs).heading["waveform"].nullable is False
    with pytest.raises(dj.DataJointError):
        again(blobs).insert1({"recording_id": 99})
    assert len(files(store)) == 2  # those of rows that were changed or deleted
