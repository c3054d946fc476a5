"""What is given for something else is told at once, with the right call, and nothing is read."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datajoint as dj
import numpy as np
import pandas as pd
import polars as pl
import pytest
import xarray as xr

import dj_npy
from dj_npy import ArrayInvalidError, Blocks

A = np.arange(12.0).reshape(4, 3)
BIG = np.zeros((2000, 3000))
one_database = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
Stored = Callable[..., dj_npy.NpyRef]


class Undeclared(dj.Manual):
    definition = "id : int32"


class NoIteration:
    """Stands for what must not be iterated; a dict key for each way to be one."""

    shape, dtype, ndim = (3,), np.dtype("f8"), 1

    def __iter__(self) -> Any:
        raise AssertionError("iterated")

    def __array__(self) -> Any:
        raise AssertionError("converted")


Given = Callable[[dj_npy.NpyRef], Any]
ONE: dict[str, tuple[Given, str]] = {
    "a reference": (lambda ref: ref, r"ref\.{one}\("),
    "a row": (lambda ref: {"id": 1, "waveform": ref}, r'row\["waveform"\]\.{one}\('),
    "a DataFrame": (lambda ref: pd.DataFrame({"waveform": [ref]}), r'{call}\(df\["waveform"\]\)'),
    "a DataFrame of polars": (
        lambda ref: pl.DataFrame({"waveform": pl.Series([ref], dtype=pl.Object)}),
        r'{call}\(df\["waveform"\]\)',
    ),
    "a view": (lambda ref: ref.T, r"not a View: use np\.asarray\(view\)"),
    "an array": (lambda ref: BIG, r"not an ndarray of shape \(2000, 3000\)"),
    "a structured array": (lambda ref: np.zeros(9, "i4,f8"), r"not an ndarray of shape \(9,\)"),
    "a 0-d array": (lambda ref: np.array(3), r"not an ndarray of shape \(\)"),
    "what is like an array": (lambda ref: NoIteration(), "not a NoIteration"),
    "a Series of numbers": (lambda ref: pd.Series(BIG[0]), "not a Series"),
    "a tensor": (lambda ref: pytest.importorskip("torch").zeros(3), "not a Tensor"),
    "a DataArray": (lambda ref: xr.DataArray(A), "not a DataArray"),
    "a text": (lambda ref: "waveform", "not the str 'waveform'"),
    "bytes": (lambda ref: b"waveform", "not a bytes"),
    "None": (lambda ref: None, "not None"),
    "a number": (lambda ref: 3, "not an int 3"),
    "a class": (lambda ref: dict, "not the class dict"),
    "blocks": (lambda ref: ref.to_dask(), "not an Array"),
}
MANY = {"load": "load", "stream": "blocks", "to_dask": "to_dask"}
PYTORCH = pytest.param("a tensor", marks=pytest.mark.slow)  # which takes seconds to import


@pytest.mark.parametrize("what", [what if what != "a tensor" else PYTORCH for what in ONE])
@pytest.mark.parametrize("function", MANY)
def test_one_for_many(stored: Stored, opened: list[str], function: str, what: str) -> None:
    ref = stored(A)
    opened.clear()
    make, message = ONE[what]
    right = message.replace("{one}", MANY[function]).replace("{call}", rf"dj_npy\.{function}")
    with pytest.raises(ArrayInvalidError, match=rf"^dj_npy\.{function} takes many.*{right}"):
        getattr(dj_npy, function)(make(ref))
    assert opened == []


def test_what_is_many_is_taken(stored: Stored) -> None:
    refs = [stored(A + n, n) for n in range(2)]
    objects = np.empty(2, object)
    objects[:] = refs
    for given in (refs, tuple(refs), iter(refs), objects, pd.Series(refs), {0: refs[0]}.values()):
        assert dj_npy.load(given)[0].shape == (4, 3)
    assert len(dj_npy.load(pl.Series(refs, dtype=pl.Object))) == 2
    assert dj_npy.load(np.array([])) == []  # what `to_arrays` returns if there are no rows
    assert dj_npy.to_dask(pd.Series(refs)).shape == (2, 4, 3)


def test_records_are_rows(stored: Stored) -> None:
    records = np.array([(1, stored(A, 1)), (2, None)], [("id", "i8"), ("waveform", object)])
    [first, second] = dj_npy.load(records)
    assert (first["id"], second) == (1, {"id": 2, "waveform": None})
    np.testing.assert_array_equal(first["waveform"], A)
    assert [row["id"] for row in dj_npy.stream(records, "waveform", progress=True)] == [1, 2]


WRONG: dict[str, tuple[Callable[[dj_npy.NpyRef], Any], str]] = {
    "threads by position": (lambda ref: dj_npy.load([ref], 8), r"not an int 8.*max_workers=8"),  # type: ignore[arg-type]
    "names in a list": (lambda ref: dj_npy.load([], ["a", "b"]), "names of attributes, not a list"),  # type: ignore[arg-type]
    "a name that is none": (
        lambda ref: dj_npy.load([{"id": 1, "waveform": ref}], "wave"),
        "a row has no attribute 'wave'; it has id, waveform",
    ),
    "lists of references": (lambda ref: dj_npy.load([[ref]]), "row as a dict, not a list"),
    "arrays": (lambda ref: dj_npy.load([BIG]), r"not an ndarray of shape \(2000, 3000\)"),
    "a row among references": (
        lambda ref: dj_npy.to_dask([ref, {"waveform": ref}]),
        r"refs\[1\] is no NpyRef, but dict.*query\.to_arrays",
    ),
    "a table to to_dask": (
        lambda ref: dj_npy.to_dask(Undeclared),
        r'not the class Undeclared: use dj_npy\.to_dask\(query\.to_arrays\("waveform"\)\)',
    ),
    "a reference to to_xarray": (lambda ref: dj_npy.to_xarray(ref, "a"), r"ref\.to_xarray\(\)"),
    "references to to_xarray": (
        lambda ref: dj_npy.to_xarray([ref], "a"),
        r"not a list: .*dj_npy\.to_dask\(refs\)",
    ),
    "a class to to_xarray": (lambda ref: dj_npy.to_xarray(dict, "a"), "not the class dict"),
    "a reference to verify": (lambda ref: dj_npy.verify(ref), r"ref\.verify\(\)"),
    "a list to verify": (lambda ref: dj_npy.verify(["a", "b"]), r"dj_npy\.verify\(\*schemas\)"),
    "a row to verify": (lambda ref: dj_npy.verify({"id": 1}), r"verify\(Recording & key\)"),
    "an array to verify": (lambda ref: dj_npy.verify(BIG), "not an ndarray of shape"),
    "a table to collect": (lambda ref: dj_npy.collect(Undeclared), r"dj_npy\.collect\(schema\)"),
    "a list to collect": (lambda ref: dj_npy.collect(["a"]), r"dj_npy\.collect\(\*schemas\)"),
    "a reference to collect": (lambda ref: dj_npy.collect(ref), "not an NpyRef"),
    "days to collect": (lambda ref: dj_npy.collect("a", older_than=1), "not an int 1"),  # type: ignore[arg-type]
    "an array to collect": (lambda ref: dj_npy.collect("a", at_most=BIG), "not an ndarray"),  # type: ignore[arg-type]
    "a reference to adopt": (lambda ref: dj_npy.adopt(ref), "its name or a table, not an NpyRef"),
    "None to adopt": (lambda ref: dj_npy.adopt(None), "not None"),
    "a reference to usage": (lambda ref: dj_npy.usage(ref), "a table or a query, not an NpyRef"),
    "a row to usage": (lambda ref: dj_npy.usage({"id": 1}), r"usage\(Recording & key\)"),
    "a reference to move": (
        lambda ref: dj_npy.move(ref, "waveform", "archive"),
        r"not an NpyRef: dj_npy\.move\(Recording & query, 'waveform', 'archive'\)",
    ),
    "no stores to relocate": (
        lambda ref: dj_npy.relocate("lab", old="main", new="main"),
        r"relocate\(schema, old='disk', new='archive'\)",
    ),
    "a table to relocate": (
        lambda ref: dj_npy.relocate(Undeclared, old="main", new="disk"),
        "a schema or its name, not the class Undeclared",
    ),
    "an instance to use_config": (
        lambda ref: dj_npy.use_config(SimpleNamespace(config=1)),
        r"not a SimpleNamespace: use its config, instance\.config",
    ),
    "a dict to use_config": (lambda ref: dj_npy.use_config({"stores": BIG}), "not a dict$"),  # type: ignore[arg-type]
    "rows to insert": (lambda ref: dj_npy.insert([{}], Undeclared), r"insert\(Recording, rows\)"),
    "a name to insert": (
        lambda ref: dj_npy.insert("scan", []),
        "takes a table, not the str 'scan'",
    ),
    "a row to insert": (
        lambda ref: dj_npy.insert(Undeclared, {"id": 1}),
        r"not a dict: use Recording\.insert1\(row\), or dj_npy\.insert\(Recording, \[row\]\)",
    ),
    "an array to insert": (
        lambda ref: dj_npy.insert(Undeclared, BIG[0]),
        "many rows, not an ndarray",
    ),
    "a reference to insert": (
        lambda ref: dj_npy.insert(Undeclared, ref),
        "many rows, not an NpyRef",
    ),
    "blocks to insert": (lambda ref: dj_npy.insert(Undeclared, Blocks((1,), "f8", [])), "Blocks"),
    "None to insert": (lambda ref: dj_npy.insert(Undeclared, None), "many rows, not None"),
    "an array for a shape": (lambda ref: Blocks(BIG, "f8", []), r"shape.*not an ndarray of shape"),
    "a reference for a shape": (lambda ref: Blocks(ref, "f8", []), "shape.*not an NpyRef"),
    "a number for a shape": (lambda ref: Blocks(3, "f8", []), "not an int 3: Blocks"),  # type: ignore[arg-type]
    "dtype and shape exchanged": (lambda ref: Blocks("f8", (3,), []), "not the str 'f8'"),  # type: ignore[arg-type]
    "an array for a dtype": (lambda ref: Blocks((3,), BIG, []), r"^Blocks\(shape, dtype, blocks\)"),
    "an array for blocks": (lambda ref: Blocks((4, 3), "f8", A), "insert it itself"),
    "a reference for blocks": (lambda ref: Blocks((4, 3), "f8", ref), r"ref\.blocks\(\)"),
    "a view for blocks": (lambda ref: Blocks((3, 4), "f8", ref.T), "not a View"),
    "a text for blocks": (lambda ref: Blocks((3,), "f8", "abc"), "not the str 'abc'"),
    "a row for blocks": (lambda ref: Blocks((3,), "f8", {"a": A}), "not a dict"),
    "an array for a mode": (lambda ref: ref.load(A), "not an ndarray of shape"),  # type: ignore[arg-type]
    "True for a mode": (lambda ref: ref.load(True), "not a bool True"),  # type: ignore[arg-type]
    "an array for a size": (lambda ref: ref.blocks(A), "not an ndarray of shape"),  # type: ignore[arg-type]
    "a shape for a size": (lambda ref: ref.blocks((3, 4)), "not a tuple"),  # type: ignore[arg-type]
    "a list for out": (lambda ref: ref.read(out=[0.0]), "not list"),  # type: ignore[arg-type]
    "an attribute for dims": (lambda ref: ref.to_xarray("waveform"), "2 axes.*not 'waveform'"),
    "threads in a text": (lambda ref: dj_npy.load([ref], max_workers="8"), "not the str '8'"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", WRONG)
def test_the_wrong_call(stored: Stored, opened: list[str], what: str) -> None:
    call, message = WRONG[what]
    ref = stored(A)
    opened.clear()
    with pytest.raises(ArrayInvalidError, match=message) as told:
        call(ref)
    assert len(str(told.value).splitlines()) == 1
    assert len(str(told.value)) < 300
    assert opened == []
    assert not ref.is_loaded


def test_a_stack_of_blocks_is_blocks() -> None:
    assert Blocks((8, 3), "f8", np.stack([A, A])).shape == (8, 3)
    assert Blocks(np.array([8, 3]), "f8", pd.Series([A, A])).shape == (8, 3)


def test_a_query_is_its_rows_where_rows_will_do(recording: Any, opened: list[str]) -> None:
    recording.insert({"recording_id": n, "waveform": A + n} for n in range(3))
    for rows in (dj_npy.load(recording), list(dj_npy.stream(recording & "recording_id < 2"))):
        assert [row["waveform"][0, 0] for row in rows] == [row["recording_id"] for row in rows]
    opened.clear()
    for query in (recording, recording(), recording & "recording_id < 2"):
        with pytest.raises(ArrayInvalidError, match=r'to_dask\(query\.to_arrays\("waveform"\)\)'):
            dj_npy.to_dask(query)
    with pytest.raises(ArrayInvalidError, match="takes a table, not a query"):
        dj_npy.insert(dj.U("recording_id").aggr(recording, n="count(*)"), [])
    assert opened == []


def test_nothing_is_written_for_a_folder_that_is_none(tmp_path: Path) -> None:
    for given in (None, 3, BIG, {"folder": tmp_path}):
        with pytest.raises(ArrayInvalidError, match=r"embedded\.start takes a folder, not"):
            dj_npy.embedded.start(given)  # type: ignore[arg-type]


@one_database
def test_insert_of_what_is_one_row(table: Any, stored: Stored) -> None:
    recording = table("recording_id : int32\n---\nwaveform : <npy@>")
    row = {"recording_id": 1, "waveform": A}
    for rows in (row, stored(A), stored(A).T):
        with pytest.raises(ArrayInvalidError, match=r"insert takes many rows.*insert1\(row\)"):
            recording.insert(rows)
    with pytest.raises(ArrayInvalidError, match=r"not the str 'recording_id'.*insert1\(row\)"):
        recording.insert(row, chunk_size=9)
    assert not recording()
    recording.insert([row])


@one_database
def test_rows_by_position_may_be_the_keys_of_a_dict(table: Any) -> None:
    sides = table("id : int32\nside : char(1)", "Side")
    with pytest.deprecated_call():
        sides.insert(dict.fromkeys([(1, "L"), (2, "R"), (1, "L")]))
    assert len(sides()) == 2
