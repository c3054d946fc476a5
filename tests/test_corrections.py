"""Each correction: the fault without it, and what holds with it."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pandas as pd
import pytest
from datajoint import codecs
from datajoint.errors import DataJointError, DuplicateError
from datajoint.expression import QueryExpression
from datajoint.heading import Heading
from datajoint.settings import Config
from datajoint.table import Table

import dj_npy
from dj_npy import NpyRef
from dj_npy._arraylike import as_scalar
from tests.conftest import MakeTable
from tests.test_codec import WAVEFORM, built_in_codec, files

CORRECTED = [
    (Config, "get_store_spec"),
    (QueryExpression, "to_arrays"),
    (QueryExpression, "fetch"),
    (Table, "update1"),
    (Table, "_insert_rows"),
    (Heading, "__getitem__"),
    (codecs, "resolve_dtype"),
]


@contextlib.contextmanager
def without(owner: Any, *names: str) -> Iterator[None]:
    """DataJoint's own methods, for a while."""
    corrected = {name: getattr(owner, name) for name in names}
    for name, method in corrected.items():
        setattr(owner, name, method.__wrapped__)
    try:
        yield
    finally:
        for name, method in corrected.items():
            setattr(owner, name, method)


@pytest.mark.parametrize(("owner", "name"), CORRECTED)
def test_a_corrected_method_is_wrapped_once(owner: Any, name: str) -> None:
    dj_npy._corrections.apply()
    method = getattr(owner, name)
    assert method.__name__ == name
    assert not hasattr(method.__wrapped__, "__wrapped__")
    assert method.__wrapped__.__module__.startswith("datajoint")


# --- default_store ---------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["npy", "hash", "blob", "object", "attach"])
def test_the_default_store_serves_every_codec(
    table: MakeTable, database: Any, codec: str, tmp_path: Path
) -> None:
    file = tmp_path / "file.bin"
    file.write_bytes(b"contents")
    values = {"npy": WAVEFORM, "hash": b"contents", "blob": WAVEFORM}
    value = values.get(codec, str(file))
    stored = table(f"id : int32\n---\nvalue : <{codec}@>")
    with (
        built_in_codec(),  # ours does not depend on the correction
        without(Config, "get_store_spec"),
        pytest.raises(DataJointError, match="Storage ''"),
    ):
        stored.insert1({"id": 1, "value": value})
    if database.connection.adapter.backend == "mysql" and codec in ("blob", "attach"):
        # The store serves it; DataJoint itself then fails, with a store's name as without.
        with pytest.raises(TypeError, match="dict can not be used as parameter"):
            stored.insert1({"id": 1, "value": value})
        return
    stored.insert1({"id": 1, "value": value})
    database.config.download_path = str(tmp_path)
    found = stored.fetch1("value")
    if codec in ("npy", "blob"):
        np.testing.assert_array_equal(found, WAVEFORM)
    elif codec == "hash":
        assert found == b"contents"
    elif codec == "attach":
        assert Path(found).read_bytes() == b"contents"
    else:
        assert found.read() == b"contents"


def test_a_store_that_is_not_configured_is_still_refused(database: Any, stores: Any) -> None:
    with pytest.raises(DataJointError, match="'nowhere'"):
        database.config.get_store_spec("nowhere")
    database.config.stores = {}
    for name in ("", None):
        with pytest.raises(DataJointError, match=r"stores.default is not configured"):
            database.config.get_store_spec(name)


# --- fetch_without_loading -------------------------------------------------------------------


@pytest.fixture
def two_rows(table: MakeTable) -> Any:
    recording = table("id : int32\n---\nn : int32\nwaveform : <npy@>\nother = null : <npy@>")
    recording.insert(
        [
            {"id": n, "n": 10 * n, "waveform": WAVEFORM + n, "other": None if n else WAVEFORM}
            for n in range(2)
        ]
    )
    return recording


def refs_in(value: Any) -> list[NpyRef]:
    """All references in whatever a fetch returns."""
    if isinstance(value, NpyRef):
        return [value]
    if isinstance(value, dict):
        return [ref for part in value.values() for ref in refs_in(part)]
    if isinstance(value, (list, tuple)):
        return [ref for part in value for ref in refs_in(part)]
    if isinstance(value, pd.DataFrame):
        return [ref for name in value for ref in refs_in(list(value[name]))]
    if isinstance(value, np.ndarray):
        return refs_in(value.tolist())
    if type(value).__module__.startswith("polars"):
        return refs_in(value.rows())
    return []


FETCHES: dict[str, tuple[Callable[[Any], Any], int]] = {
    "fetch()": (lambda t: t.fetch(), 3),
    "fetch(attr)": (lambda t: t.fetch("waveform"), 2),
    "fetch(attr, attr)": (lambda t: t.fetch("n", "waveform"), 2),
    "fetch(attr, KEY)": (lambda t: t.fetch("waveform", "KEY"), 2),
    "fetch(KEY, attr, as_dict)": (lambda t: t.fetch("KEY", "waveform", as_dict=True), 2),
    "fetch(as_dict)": (lambda t: t.fetch(as_dict=True), 3),
    "fetch(frame)": (lambda t: t.fetch(format="frame"), 3),
    "fetch(squeeze)": (lambda t: t.fetch("waveform", squeeze=True), 2),
    "fetch(order, limit)": (lambda t: t.fetch(order_by="id DESC", limit=1), 1),
    "fetch1()": (lambda t: (t & "id=0").fetch1(), 2),
    "fetch1(attr)": (lambda t: (t & "id=0").fetch1("waveform"), 1),
    "fetch1(attr, KEY)": (lambda t: (t & "id=0").fetch1("waveform", "KEY"), 1),
    "to_dicts": (lambda t: t.to_dicts(), 3),
    "to_arrays()": (lambda t: t.to_arrays(), 3),
    "to_arrays(attr)": (lambda t: t.to_arrays("waveform"), 2),
    "to_arrays(attrs)": (lambda t: t.to_arrays("waveform", "other", "n"), 3),
    "to_arrays(key)": (lambda t: t.to_arrays("waveform", include_key=True), 2),
    "to_pandas": (lambda t: t.to_pandas(), 3),
    "to_polars": (lambda t: t.to_polars(), 3),
    "head": (lambda t: t.head(), 3),
    "tail": (lambda t: t.tail(), 3),
    "iteration": (lambda t: list(t()), 3),
    "renamed": (lambda t: t.proj(trace="waveform").to_arrays("trace"), 2),
    "renamed, fetched": (lambda t: t.proj("n", trace="waveform").fetch(), 2),
    "joined": (lambda t: (t * t.proj(trace="waveform", m="n", o="other")).fetch(), 6),
    "restricted": (lambda t: (t & "id=1").fetch("waveform"), 1),
    "preview": (lambda t: repr(t()) + t()._repr_html_(), 0),
}


@pytest.mark.parametrize("name", FETCHES)
def test_a_fetch_loads_nothing(two_rows: Any, opened: list[str], name: str) -> None:
    fetch, expected = FETCHES[name]
    refs = refs_in(fetch(two_rows))
    assert len(refs) == expected
    assert opened == []
    assert not any(ref.is_loaded for ref in refs)
    for ref in refs:
        assert ref.shape == WAVEFORM.shape
        assert ref.load().shape == WAVEFORM.shape


FAULTY = ["fetch()", "fetch(attr)", "fetch(attr, KEY)", "to_arrays()", "to_arrays(attr)"]


@pytest.mark.parametrize("name", FAULTY)
def test_without_the_correction_a_fetch_loads(
    table: MakeTable, opened: list[str], name: str
) -> None:
    recording = table("id : int32\n---\nwaveform : <npy@>")
    recording.insert([{"id": n, "waveform": WAVEFORM} for n in range(2)])
    with without(QueryExpression, "to_arrays", "fetch"), contextlib.suppress(ValueError):
        FETCHES[name][0](recording)
    assert opened != []


def test_no_rows_fetch_as_before(two_rows: Any) -> None:
    nothing = two_rows & "id > 99"
    assert len(nothing.fetch()) == len(nothing.to_arrays("waveform")) == 0


def test_the_fetched_values_are_arrays_of_references(two_rows: Any) -> None:
    column = two_rows.fetch("waveform", order_by="id")
    assert column.shape == (2,)
    assert column.dtype == object
    records = two_rows.fetch(order_by="id")
    assert records["id"].tolist() == [0, 1]
    np.testing.assert_array_equal(records[1]["waveform"], WAVEFORM + 1)


def test_after_a_fetch_arrays_convert_as_ever(two_rows: Any) -> None:
    refs = two_rows.fetch("waveform", order_by="id")
    assert as_scalar.get() is False
    assert np.asarray(refs[1]).tolist() == (WAVEFORM + 1).tolist()
    assert np.stack(list(refs)).shape == (2, 4, 3)


def test_a_failing_fetch_leaves_conversion_as_it_was(two_rows: Any) -> None:
    with pytest.raises(DataJointError):
        two_rows.fetch("no_such_attribute")
    assert as_scalar.get() is False


def test_to_arrow_says_that_arrow_has_no_such_type(two_rows: Any, opened: list[str]) -> None:
    import pyarrow

    with pytest.raises(pyarrow.ArrowInvalid):
        two_rows.to_arrow()
    assert opened == []
    assert two_rows.proj("n").to_arrow().num_rows == 2


def test_ten_thousand_rows_are_fetched_without_opening_a_file(
    table: MakeTable, opened: list[str]
) -> None:
    recording = table("id : int32\n---\nwaveform : <npy@>")
    recording.insert1({"id": -1, "waveform": WAVEFORM})
    # Ten thousand rows that share one file, as INSERT ... SELECT makes them.
    one = recording.proj(..., old="id").cursor(as_dict=True).fetchone()["waveform"]
    fill_with_json(recording, one, 9_999)
    opened.clear()
    records = recording.fetch()
    assert len(records) == 10_000
    assert {record["waveform"].shape for record in records} == {(4, 3)}
    assert opened == []


def fill_with_json(table: Any, metadata: Any, count: int) -> None:
    import json

    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    quoted = table.connection.adapter.quote_identifier
    for start in range(0, count, 1000):
        rows = range(start, min(start + 1000, count))
        table.connection.query(
            f"INSERT INTO {table.full_table_name} ({quoted('id')}, {quoted('waveform')}) VALUES "
            + ", ".join(f"({n}, %s)" for n in rows),
            args=[text] * len(rows),
        )


# --- key_of_an_update ------------------------------------------------------------------------


def test_an_update_knows_its_key(two_rows: Any) -> None:
    folder = (two_rows & "id=0").fetch1("waveform").path.rpartition("/")[0]
    with without(Table, "update1"):
        two_rows.update1({"id": 0, "waveform": WAVEFORM})
    assert "id=0" not in (two_rows & "id=0").fetch1("waveform").path
    two_rows.update1({"id": 0, "waveform": WAVEFORM})
    assert (two_rows & "id=0").fetch1("waveform").path.rpartition("/")[0] == folder


def test_a_bad_update_is_refused_as_before(two_rows: Any) -> None:
    for row in ([1], {"n": 1}, {"id": 0, "no_such": 1}, {"id": 99, "n": 1}):
        with pytest.raises(DataJointError):
            two_rows.update1(row)


# --- files_of_a_refused_insert ---------------------------------------------------------------


def test_a_refused_insert_takes_its_files_back(two_rows: Any, store: Path) -> None:
    before = files(store)
    rows = [{"id": n, "n": 0, "waveform": WAVEFORM} for n in (5, 6, 0)]
    with pytest.raises(DuplicateError):
        two_rows.insert(rows)
    assert files(store) == before
    with without(Table, "_insert_rows"), pytest.raises(DuplicateError):
        two_rows.insert(rows)
    assert len(files(store) - before) == 3


def test_an_insert_in_chunks_keeps_the_files_of_the_chunks_that_are_in(
    two_rows: Any, store: Path
) -> None:
    before = files(store)
    rows = [{"id": n, "n": 0, "waveform": WAVEFORM} for n in (5, 6, 7, 0)]
    with pytest.raises(DuplicateError):
        two_rows.insert(rows, chunk_size=2)
    assert len(files(store) - before) == 2
    for ref in two_rows.to_arrays("waveform"):
        ref.verify()


def test_after_a_lost_connection_the_files_stay(
    two_rows: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(store)

    def answer_is_lost(original: Any) -> Any:
        def query(query: str, *args: Any, **kwargs: Any) -> Any:
            result = original(query, *args, **kwargs)
            if query.startswith("INSERT"):
                raise dj.errors.LostConnectionError("after the server had done it")
            return result

        return query

    with monkeypatch.context() as patch:
        connection = two_rows().connection
        patch.setattr(connection, "query", answer_is_lost(connection.query))
        with pytest.raises(dj.errors.LostConnectionError):
            two_rows.insert1({"id": 5, "n": 0, "waveform": WAVEFORM})
    assert len(files(store) - before) == 1
    (two_rows & "id=5").fetch1("waveform").verify()


# --- cost_of_a_value -------------------------------------------------------------------------


def calls_per_row(table: Any, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> float:
    """How often a function of DataJoint runs for each row of a fetch, beyond once."""
    count = 0
    original = getattr(owner, name)

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, counting)
        table.to_dicts(limit=1)
        for_one, count = count, 0
        table.to_dicts()
        return (count - for_one) / (len(table()) - 1)


def test_a_chain_of_codecs_is_worked_out_once(
    two_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert calls_per_row(two_rows, codecs, "parse_type_spec", monkeypatch) == 0
    with without(codecs, "resolve_dtype"):
        assert calls_per_row(two_rows, codecs, "parse_type_spec", monkeypatch) > 0


def test_a_codec_that_is_replaced_is_used_at_once(two_rows: Any) -> None:
    assert isinstance((two_rows & "id=0").fetch1("waveform"), NpyRef)
    with built_in_codec():
        assert not isinstance((two_rows & "id=0").fetch1("waveform"), NpyRef)
    assert isinstance((two_rows & "id=0").fetch1("waveform"), NpyRef)


def test_an_attribute_is_looked_up_without_copying_the_heading(two_rows: Any) -> None:
    heading = two_rows.heading
    copies = 0

    class Counting(Heading):  # type: ignore[misc, unused-ignore]
        @property
        def attributes(self) -> Any:
            nonlocal copies
            copies += 1
            return super().attributes

    counting = Counting()
    counting._attributes = heading._attributes
    assert counting["waveform"] is heading.attributes["waveform"]
    assert copies == 0
    with pytest.raises(KeyError):
        counting["no_such"]
    with without(Heading, "__getitem__"):
        counting["waveform"]
    assert copies == 2


def test_no_warning_of_ours_on_any_of_these(two_rows: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        two_rows.to_arrays()
        two_rows.to_dicts()
