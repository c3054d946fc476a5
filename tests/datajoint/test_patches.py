"""Each correction: the fault without it, and what holds with it."""

import ast
import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pandas as pd
import pytest
from datajoint import codecs, condition, expression
from datajoint.adapters.postgres import PostgreSQLAdapter
from datajoint.autopopulate import AutoPopulate
from datajoint.errors import DataJointError, DuplicateError
from datajoint.expression import QueryExpression
from datajoint.heading import Heading
from datajoint.settings import Config
from datajoint.table import Table
from deepdiff import DeepHash

import dj_npy
from dj_npy import NpyRef
from dj_npy._array.arraylike import as_scalar
from dj_npy._stores.local.store import LocalStore
from tests.conftest import MakeTable, connected_instance, is_mariadb
from tests.datajoint.test_codec import WAVEFORM, built_in_codec
from tests.support.servers import files
from tests.support.warm import run

CORRECTED = [
    (Config, "get_store_spec"),
    (QueryExpression, "to_arrays"),
    (QueryExpression, "fetch"),
    (QueryExpression, "to_dicts"),
    (QueryExpression, "__iter__"),
    (PostgreSQLAdapter, "get_cursor"),
    (Table, "update1"),
    (Table, "_insert_rows"),
    (AutoPopulate, "_populate1"),
    (expression, "decode_attribute"),
    (expression, "make_condition"),
    (condition, "make_condition"),
    (QueryExpression, "restrict"),
    (QueryExpression, "proj"),
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
    if is_mariadb(database) and codec in ("blob", "attach"):
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


class DoubledCodec(dj.Codec):
    """Chained to ours: what it decodes is what ours has decoded."""

    name = "doubled"

    def get_dtype(self, is_store: bool) -> str:
        return "<npy@>"

    def encode(self, value: Any, *, key: Any = None, store_name: Any = None) -> Any:
        return np.asarray(value) * 2

    def decode(self, stored: Any, *, key: Any = None) -> Any:
        array = np.asarray(stored)
        assert array.dtype == np.float64
        return array / 2


def test_a_codec_chained_to_ours_has_the_data_in_every_fetch(
    table: MakeTable, database: Any
) -> None:
    chained = table("id : int32\n---\nwaveform : <doubled@>\nplain : <npy@>")
    row = {"id": 1, "waveform": WAVEFORM, "plain": WAVEFORM}
    if is_mariadb(database):
        with pytest.raises(TypeError, match="dict can not be used as parameter"):  # DataJoint's
            chained.insert1(row)
        return
    chained.insert1(row)
    for fetched in (
        chained.to_dicts()[0],
        chained.fetch(as_dict=True)[0],
        chained.fetch()[0],
        chained.to_arrays()[0],
        {"waveform": chained.fetch("waveform")[0], "plain": chained.fetch("plain")[0]},
        {"waveform": chained.to_arrays("waveform")[0], "plain": chained.to_arrays("plain")[0]},
    ):
        np.testing.assert_array_equal(fetched["waveform"], WAVEFORM)
        assert isinstance(fetched["plain"], NpyRef)
        assert not fetched["plain"].is_loaded


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


# --- hash_of_a_three_part_make ---------------------------------------------------------------


def test_a_three_part_make_loads_what_it_uses_only(
    two_rows: Any, schema: Any, opened: list[str]
) -> None:
    Recording = two_rows  # noqa: F841 -- the definition looks it up

    @schema
    class Mean(dj.Computed):
        definition = "-> Recording\n---\nmean : float64"
        use = False

        def make_fetch(self, key: Any) -> Any:
            return ((two_rows & key).fetch1("waveform"), (two_rows & key).fetch1("n"))

        def make_compute(self, key: Any, waveform: Any, n: int) -> Any:
            return (float(waveform.mean()) if self.use else n,)

        def make_insert(self, key: Any, mean: float) -> None:
            self.insert1({**key, "mean": mean})

    Mean.populate({"id": 0})
    assert opened == []
    Mean.use = True
    Mean.populate()
    assert (Mean() & "id=1").fetch1("mean") == (WAVEFORM + 1).mean()
    assert len(opened) == 1
    # One alone, not within what a fetch returned, has the hash of its row too.
    alone = [(two_rows & f"id={n}").fetch1("waveform") for n in (0, 0, 1)]
    first, again, other = (DeepHash(ref)[ref] for ref in alone)
    assert first == again != other
    assert not any(ref.is_loaded for ref in alone)
    # Without the correction it loads what it does not use.
    Mean.use = False
    Mean().delete_quick()
    opened.clear()
    with without(AutoPopulate, "_populate1"), without(DeepHash, "_hash"):
        Mean.populate()
    assert opened != []


def test_a_three_part_make_sees_that_an_array_was_replaced_meanwhile(
    two_rows: Any, schema: Any
) -> None:
    Recording = two_rows  # noqa: F841 -- the definition looks it up

    @schema
    class Meddled(dj.Computed):
        definition = "-> Recording\n---\nmean : float64"

        def make_fetch(self, key: Any) -> Any:
            return ((two_rows & key).fetch1("waveform"),)

        def make_compute(self, key: Any, waveform: Any) -> Any:
            two_rows.update1({**key, "waveform": WAVEFORM * 2})
            return (0.0,)

        def make_insert(self, key: Any, mean: float) -> None:
            self.insert1({**key, "mean": mean})

    with pytest.raises(DataJointError, match="has changed"):
        Meddled.populate()
    assert len(Meddled()) == 0


# --- files_of_refused_rows -------------------------------------------------------------------


def test_an_error_at_one_row_takes_back_the_files_of_the_rows_before(
    two_rows: Any, store: Path
) -> None:
    before = files(store)
    good = [{"id": n, "n": 0, "waveform": WAVEFORM} for n in (5, 6)]
    for bad in (
        {"id": 7, "n": 0, "waveform": [1]},
        {"id": 7, "n": "no number", "waveform": WAVEFORM},
        {"id": 7, "waveform": WAVEFORM},
    ):
        with pytest.raises((DataJointError, ValueError)):
            two_rows.insert([*good, bad])
        assert files(store) == before
    with without(Table, "_insert_rows"), pytest.raises(DataJointError):
        two_rows.insert([*good, {"id": 7, "n": 0, "waveform": [1]}])
    assert len(files(store) - before) == 2


def test_what_cannot_be_removed_does_not_hide_what_went_wrong(
    two_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(*_: Any) -> None:
        raise dj_npy.StoreError("the disk is gone")

    monkeypatch.setattr(LocalStore, "remove", remove)
    rows = [{"id": 5, "n": 0, "waveform": WAVEFORM}, {"id": 6, "n": 0, "waveform": [1]}]
    with pytest.raises(dj_npy.ArrayInvalidError, match="got list"):
        two_rows.insert(rows)


def test_what_the_database_refuses_is_taken_back(two_rows: Any, store: Path) -> None:
    before = files(store)
    with pytest.raises(DuplicateError):
        two_rows.insert([{"id": n, "n": 0, "waveform": WAVEFORM} for n in (5, 6, 0)])
    assert files(store) == before


def test_after_an_interrupt_nothing_is_taken_back_that_may_have_been_sent(
    two_rows: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(store)
    send = type(two_rows.connection).query

    def interrupted(self: Any, query: str, *args: Any, **options: Any) -> Any:
        result = send(self, query, *args, **options)
        if query.startswith("INSERT"):
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(type(two_rows.connection), "query", interrupted)
    with pytest.raises(KeyboardInterrupt):
        two_rows.insert([{"id": 5, "n": 0, "waveform": WAVEFORM}])
    monkeypatch.undo()
    assert len(files(store) - before) == 1
    (two_rows & "id=5").fetch1("waveform").verify()


def test_after_a_lost_session_nothing_is_taken_back(
    two_rows: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, connection = files(store), two_rows.connection
    send = type(connection).query

    def lost(self: Any, query: str, *args: Any, **options: Any) -> Any:
        result = send(self, query, *args, **options)
        if query.startswith("INSERT"):
            session = self._conn
            number = self.adapter.get_connection_id(session)
            if self.adapter.backend == "postgresql":
                other = self.adapter.connect(**self._build_connect_kwargs())
                other.cursor().execute(f"SELECT pg_terminate_backend({number}, 5000)")
                other.close()
            else:
                other = connected_instance(self.conn_info["port"]).connection
                send(other, f"KILL {number}")
                other.close()
            session.cursor().execute("SELECT 1")  # raises what DataJoint does not translate
        return result

    monkeypatch.setattr(type(connection), "query", lost)
    with pytest.raises(Exception, match=r"(?i)connection|terminat|lost|gone"):
        two_rows.insert([{"id": 5, "n": 0, "waveform": WAVEFORM}])
    monkeypatch.undo()
    connection.connect()
    assert len(files(store) - before) == 1
    (two_rows & "id=5").fetch1("waveform").verify()


def test_inserts_and_updates_within_an_insert_keep_their_files(
    two_rows: Any, table: MakeTable
) -> None:
    other = table("id : int32\n---\nwaveform : <npy@>", "Other")
    other.insert1({"id": 1, "waveform": WAVEFORM})

    def rows() -> Iterator[Any]:
        yield {"id": 5, "n": 0, "waveform": WAVEFORM}
        other.insert1({"id": 2, "waveform": WAVEFORM})
        other.update1({"id": 1, "waveform": WAVEFORM + 1})
        yield {"id": 6, "n": 0, "waveform": "bad"}

    with pytest.raises(dj_npy.ArrayInvalidError):
        two_rows.insert(rows())
    for ref in other.to_arrays("waveform"):
        ref.verify()


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
    table: MakeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = table("id : int32\n---\nvalue : <blob>")
    blobs.insert([{"id": n, "value": WAVEFORM} for n in range(3)])
    blobs.to_dicts()
    assert calls_per_row(blobs, codecs, "parse_type_spec", monkeypatch) == 0
    with without(codecs, "resolve_dtype"):
        assert calls_per_row(blobs, codecs, "parse_type_spec", monkeypatch) > 0


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


# --- a DataJoint that has other names ------------------------------------------------------------

RENAMED = """
import importlib, sys, warnings
module, _, path = sys.argv[1].partition(":")
*owners, name = path.split(".")
owner = importlib.import_module(module)
for each in owners:
    owner = getattr(owner, each)
if owners:
    # A heading must still be asked for its attributes, a configuration for its stores.
    setattr(owner, name + "_of_tomorrow", getattr(owner, name))
delattr(owner, name)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import dj_npy
[first] = [str(each.message) for each in said if "dj-npy" in str(each.message)]
print(first)
"""
PLACES = [place for each in dj_npy._datajoint.patches.CORRECTIONS for place in each.places]


# Where one of these has gone, what it overrides is corrected.
PLACES.remove("datajoint.builtin_codecs.npy:NpyCodec.validate")
PLACES.remove("datajoint.adapters.postgres:PostgreSQLAdapter.get_cursor")


@pytest.mark.slow
@pytest.mark.parametrize("place", [place for place in PLACES if "." in place.partition(":")[2]])
def test_a_name_that_has_gone_is_told_once_and_the_import_succeeds(place: str) -> None:
    done = run("-c", RENAMED, place, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    [lost] = [each.lost for each in dj_npy._datajoint.patches.CORRECTIONS if place in each.places]
    assert f"has no {place.replace(':', '.')}, which dj-npy corrects: {lost}." in done.stdout


def names_from_datajoint() -> list[str]:
    """Return ``module:name`` of all that this package imports from DataJoint's modules."""
    found = set()
    for file in Path(dj_npy.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("datajoint"):
                found |= {f"{node.module}:{alias.name}" for alias in node.names}
    return sorted(found)


WITHOUT = """
import importlib, os, sys, warnings
warnings.simplefilter("ignore")
import datajoint
for each in sys.argv[1:]:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    module, name = each.split(":")
    module = importlib.import_module(module)
    if hasattr(module, name):                   # not one of them is a module
        delattr(module, name)
        import dj_npy
        print(each)
    break
"""
NEEDED = {"datajoint.errors:DataJointError", "datajoint.codecs:unregister_codec"}
"""Without its errors, and the way to put a codec in place of another, there is nothing to do."""
GONE = {
    *names_from_datajoint(),
    *("datajoint.storage:StorageBackend", "datajoint.errors:ThreadSafetyError"),
    *("datajoint.errors:MissingExternalFile", "datajoint.errors:LostConnectionError"),
    *("datajoint.codecs:lookup_codec", "datajoint.codecs:resolve_dtype"),
    "datajoint.codecs:is_codec_registered",
    *("datajoint.builtin_codecs.npy:NpyCodec", "datajoint.connection:translate_query_error"),
    *("datajoint.expression:QueryExpression", "datajoint.utils:to_camel_case"),
}


def test_a_name_that_has_gone_does_not_fail_the_import() -> None:
    names = sorted(GONE - NEEDED)
    done = run("-c", WITHOUT, *names, env=dict(os.environ))
    assert done.stdout.split() == names, done.stderr


NEWER = """
import datajoint as dj
from datajoint.codecs import resolve_dtype
from datajoint.connection import Connection
from datajoint.gc import GarbageCollector
from datajoint.heading import Heading
from datajoint.settings import Config
from datajoint.table import Table

told = []

def newer(owner, name, answer):
    def method(*args, tomorrow=None, **kwargs):
        told.append((name, args[1:], tomorrow))
        return answer
    setattr(owner, name, method)

for name in ("start_transaction", "commit_transaction", "cancel_transaction"):
    newer(Connection, name, name)
newer(Table, "update1", "updated")
newer(Config, "get_store_spec", "a spec")
newer(GarbageCollector, "list_schema_paths", {})
newer(Heading, "__getitem__", "an attribute")
newer(dj.codecs, "resolve_dtype", ("json", [], None))
import dj_npy
from dj_npy._datajoint import patches as _corrections

class Schema:
    database, connection = "lab", None

class Tables(Table):
    definition = "id : int32"
    primary_key = []

def blank(kind):
    return object.__new__(kind)

connection = blank(Connection)
connection._conn = None
for name in ("start_transaction", "commit_transaction", "cancel_transaction"):
    assert getattr(connection, name)(1, tomorrow=2) == name
collector = blank(GarbageCollector)
collector.schemas = [Schema]
assert collector.list_schema_paths("lab", 1, tomorrow=2) == {}
assert blank(Config).get_store_spec("a", 1, tomorrow=2) == "a spec"
assert Heading.__getitem__(object(), "a", 1, tomorrow=2) == "an attribute"
assert dj.codecs.resolve_dtype("json", 1, tomorrow=2)[0] == "json"
assert [each[2] for each in told] == [2] * 7, told
assert [each[1] for each in told[:3]] == [(1,)] * 3, told
"""


def test_replacements_pass_on_what_a_newer_original_takes() -> None:
    done = run("-c", NEWER, env=dict(os.environ))
    assert done.returncode == 0, done.stderr


def test_an_update_passes_on_what_a_newer_original_takes(
    two_rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def update1(self: Any, row: Any, *, strict: bool = True) -> None:
        given.append((row, strict))

    monkeypatch.setattr(Table, "update1", dj_npy._datajoint.patches.key_of_an_update(update1))
    two_rows.update1({"id": 1}, strict=False)
    assert given == [({"id": 1}, False)]


def test_what_is_asked_for_again_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dj_npy._datajoint.patches, "_warned", set())
    monkeypatch.delattr(DeepHash, "_hash")
    monkeypatch.setattr(AutoPopulate, "_populate1", lambda *_: None)
    populate = dj_npy._datajoint.patches.hash_of_a_three_part_make(AutoPopulate._populate1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(5):
            with warnings.catch_warnings():  # as many a `make` does; Python then forgets
                pass
            populate(None)
    assert len([each for each in said if "dj-npy" in str(each.message)]) == 1


def test_of_methods_that_belong_together_all_are_corrected_or_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Owner:
        def one(self) -> int:
            return 1

    monkeypatch.setattr(codecs, "owner_of_a_test", Owner, raising=False)

    def correct(_: Any) -> Any:
        return None

    places = [f"datajoint.codecs:owner_of_a_test.{name}" for name in ("one", "two")]
    correction = dj_npy._datajoint.patches.Correction(dict.fromkeys(places, correct), "all is lost")
    with pytest.warns(UserWarning, match=r"has no datajoint.codecs.owner_of_a_test.two, .*: all"):
        dj_npy._datajoint.patches._correct(correction)
    assert Owner().one() == 1
    needing = correction._replace(places={places[0]: correct}, needs=(places[1],), lost="some")
    with pytest.warns(UserWarning, match=r"has no datajoint.codecs.owner_of_a_test.two, .*: some"):
        dj_npy._datajoint.patches._correct(needing)
    assert Owner().one() == 1
