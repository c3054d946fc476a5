"""A fetch returns what DataJoint itself would, sooner, and leaves the JSON of a row as text."""

import contextlib
import copy
import functools
import gc
import json
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import datajoint as dj
import numpy as np
import pytest
from datajoint import expression
from datajoint.adapters.postgres import PostgreSQLAdapter
from datajoint.errors import LostConnectionError
from datajoint.expression import QueryExpression

import dj_npy
from dj_npy import ArrayCorruptError, NpyRef
from dj_npy._array.ref import row_of
from dj_npy._datajoint import fetching, patches
from tests.conftest import MakeTable
from tests.datajoint.test_codec import WAVEFORM, built_in_codec
from tests.datajoint.test_patches import fill_with_json, without

EVERYTHING = """
id : int32
name : varchar(20)
---
x : float64
exact : decimal(6,3)
day : date
kind : enum('a','b')
flag : bool
params = null : json
numbers : <blob>
waveform : <npy@>
other = null : <npy@>
"""


class LoudCodec(dj.Codec):
    """Its values are JSON as ours are; to decode them asks the database for somebody's JSON."""

    name = "loud"
    table: Any = None
    decoded: list[Any]

    def get_dtype(self, is_store: bool) -> str:
        return "json"

    def encode(self, value: Any, *, key: Any = None, store_name: Any = None) -> Any:
        return {"value": value}

    def decode(self, stored: Any, *, key: Any = None) -> Any:
        type(self).decoded.append(stored)
        if stored["value"] == "bad":
            raise ValueError("bad")
        inner = None
        if self.table is not None:
            inner = type(self.table.cursor().fetchone()[-1])
        return stored["value"], inner


@pytest.fixture
def rich(table: MakeTable) -> Any:
    rich = table(EVERYTHING)
    rich.insert(
        {
            "id": n,
            "name": f"h\u00e9 {n}",
            "x": n / 3,
            "exact": "1.250",
            "day": "2026-11-27",
            "kind": "a",
            "flag": bool(n % 2),
            "params": None if n == 2 else {"\u00fc": [n, None, 1.5], "deep": {"a": "b"}},
            "numbers": np.full((1, n), 1.0),
            "waveform": WAVEFORM + n,
            "other": WAVEFORM if n == 1 else None,
        }
        for n in range(3)
    )
    return rich


@pytest.fixture
def loud(table: MakeTable) -> Any:
    LoudCodec.table, LoudCodec.decoded = None, []
    loud = table("id : int32\n---\na : <loud>\nwaveform : <npy@>\nb : <loud>", "Loud")
    loud.insert({"id": n, "a": n, "waveform": WAVEFORM, "b": f"b{n}"} for n in range(3))
    return loud


def plain(value: Any) -> Any:
    """A value with its type; of a reference, its row."""
    if isinstance(value, NpyRef):
        return NpyRef, row_of(value), value._config
    if isinstance(value, dict):
        return type(value), [(name, plain(part)) for name, part in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [plain(part) for part in value]
    if isinstance(value, np.ndarray):
        return type(value), str(value.dtype), value.shape, plain(value.tolist())
    return type(value), value


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return plain(call())
    except Exception as error:
        return type(error), re.sub(r"_u\d+", "_u", str(error))  # a counter of DataJoint's


def assert_same(way: str, query: Any) -> Any:
    """Return what a fetch comes to, which is what it does with DataJoint's own methods."""
    ours = outcome(lambda: WAYS[way](query))
    with datajoints_own():
        assert ours == outcome(lambda: WAYS[way](query)), way
    return ours


@contextlib.contextmanager
def datajoints_own() -> Iterator[None]:
    with (
        without(QueryExpression, "to_dicts", "__iter__"),
        without(PostgreSQLAdapter, "get_cursor"),
    ):
        yield


QUERIES: dict[str, Callable[[Any], Any]] = {
    "all": lambda t: t(),
    "none": lambda t: t & "id > 99",
    "restricted": lambda t: t & {"id": 1},
    "top": lambda t: t & dj.Top(2, "id DESC"),
    "key only": lambda t: t.proj(),
    "in another order": lambda t: t.proj("waveform", "x", "params"),
    "renamed": lambda t: t.proj(trace="waveform", settings="params", array="numbers"),
    "computed": lambda t: t.proj("waveform", twice="2 * x", n="NULL"),
    "joined": lambda t: t.proj("params", "waveform") * t.proj(a="other", b="params"),
    "aggregated": lambda t: dj.U("kind").aggr(t, n="count(*)", most="max(x)"),
    "aggregated, restricted": lambda t: dj.U("kind").aggr(t, n="count(*)") & "n > 1",
    "unique": lambda t: dj.U("flag", "kind") & t,
    "united": lambda t: (t & "id=0").proj() + (t & "id=2").proj(),
    "united, with arrays": lambda t: t.proj("waveform") + t.proj("params"),
}
WAYS: dict[str, Callable[[Any], Any]] = {
    "to_dicts": lambda q: q.to_dicts(),
    "to_dicts, ordered": lambda q: q.to_dicts("KEY DESC", 2, 1),
    "to_dicts, squeezed": lambda q: q.to_dicts(squeeze=True, order_by="KEY"),
    "iteration": list,
    "to_arrays": lambda q: q.to_arrays(order_by="KEY"),
    "to_arrays, squeezed": lambda q: q.to_arrays(squeeze=True),
    "to_arrays(attrs)": lambda q: q.to_arrays(*q.heading.names, include_key=True),
    "fetch": lambda q: q.fetch(),
    "fetch1": lambda q: q.fetch1(),
    "fetch1(attrs)": lambda q: q.fetch1(*q.heading.names),
    "keys": lambda q: q.keys(),
    "head": lambda q: q.head(2),
}


@pytest.mark.parametrize("query", QUERIES)
def test_every_fetch_returns_what_it_does_without_the_correction(rich: Any, query: str) -> None:
    expression = QUERIES[query](rich)
    for way in WAYS:
        assert_same(way, expression)


def columns_of_json(table: MakeTable) -> Any:
    """A table in whose rows DataJoint's client may have parsed what we leave."""
    return table("id : int32\n---\nparams = null : json\nwaveform : <npy@>", "Params")


JSONS = {
    "null": "null",
    "a number": "1.50",
    "a list": '[1, "\u00fc\u4e2d", null, true]',
    "a text": '"abc"',
    "digits in a text": '"12"',
    "a null in a text": '"null"',
    "an empty text": '""',
    "an escape": '{"a": "\\u00fc\\n\\"", "b": {}}',
}


@pytest.mark.parametrize("text", JSONS.values(), ids=JSONS)
def test_another_json_is_what_it_was(table: MakeTable, text: str) -> None:
    rows = columns_of_json(table)
    rows.insert1({"id": 1, "params": {}, "waveform": WAVEFORM})
    rows.connection.query(f"UPDATE {rows.full_table_name} SET params = %s", (text,))
    for query in (rows(), rows.proj("waveform", p="params")):
        for way in ("to_dicts", "iteration", "to_arrays", "fetch", "fetch1", "fetch1(attrs)"):
            assert_same(way, query)


def test_a_hidden_attribute_stays_hidden(rich: Any) -> None:
    kind = "jsonb" if rich.connection.adapter.backend == "postgresql" else "json"
    rich.connection.query(f"ALTER TABLE {rich.full_table_name} ADD COLUMN _secret {kind}")
    table = dj.FreeTable(rich.connection, rich.full_table_name)
    assert "_secret" not in table.heading.names
    assert "_secret" in table.heading._attributes
    for way in ("to_dicts", "iteration", "to_arrays", "fetch1"):
        assert "_secret" not in str(assert_same(way, table & "id=1"))


# --- text ------------------------------------------------------------------------------------


AS_TEXT: dict[str, Callable[[Any], Any]] = {
    "to_dicts": lambda t: t.to_dicts()[0]["waveform"],
    "iteration": lambda t: next(iter(t()))["waveform"],
    "to_arrays(attr)": lambda t: t.to_arrays("waveform")[0],
    "fetch(attr)": lambda t: t.fetch("waveform")[0],
    "fetch1(attr)": lambda t: (t & "id=1").fetch1("waveform"),
    "renamed": lambda t: t.proj(trace="waveform").to_dicts()[0]["trace"],
}
OF_WHOLE_ROWS: dict[str, Callable[[Any], Any]] = {
    "to_arrays": lambda t: t.to_arrays()[0]["waveform"],
    "fetch": lambda t: t.fetch()[0]["waveform"],
}


@pytest.mark.parametrize("way", AS_TEXT)
def test_a_row_is_text_until_something_of_it_is_asked(rich: Any, way: str) -> None:
    ref = AS_TEXT[way](rich)
    assert type(ref._row) is str
    assert ref.shape == WAVEFORM.shape
    assert type(ref._row) is not str
    assert row_of(ref)["dtype"] == "float64"


@pytest.mark.parametrize("way", OF_WHOLE_ROWS)
def test_whole_rows_stay_text_if_nothing_else_may_be_json(
    table: MakeTable, rich: Any, way: str
) -> None:
    alone = table("id : int32\n---\nwaveform : <npy@>\nx : float64", "Alone")
    alone.insert1({"id": 1, "waveform": WAVEFORM, "x": 0})
    assert type(OF_WHOLE_ROWS[way](alone)._row) is str
    assert OF_WHOLE_ROWS[way](rich).shape == WAVEFORM.shape


def test_a_fetch_makes_two_objects_a_row_for_the_collector(table: MakeTable) -> None:
    recording = table("id : int32\n---\nwaveform : <npy@>")
    recording.insert1({"id": -1, "waveform": WAVEFORM})
    fill_with_json(recording, row_of(recording.fetch1("waveform")), 1999)
    recording.to_dicts()
    gc.collect()
    before = len(gc.get_objects())
    rows = recording.to_dicts()
    made = len(gc.get_objects()) - before
    assert len(rows) == 2000
    assert made < 2 * 2000 + 200


def test_what_is_not_a_fetch_has_the_json_as_ever(rich: Any) -> None:
    of_json = str if rich.connection.adapter.backend == "mysql" else dict
    rich.to_dicts()
    rows = rich.proj("waveform", "params") & "id=1"
    iterator = iter(rows)
    next(iterator)  # which is still open
    assert {type(v) for v in rows.cursor(as_dict=True).fetchone().values()} >= {of_json}
    assert {type(v) for v in rows.cursor().fetchone()} >= {of_json}
    assert {type(v) for v in rich.connection.query(rows.make_sql()).fetchone()} >= {of_json}


@pytest.mark.parametrize("way", ["to_dicts", "iteration", "to_arrays", "fetch1"])
def test_what_a_codec_reads_while_it_decodes_is_parsed(loud: Any, rich: Any, way: str) -> None:
    LoudCodec.table = rich.proj("params") & "id=0"
    of_json = str if rich.connection.adapter.backend == "mysql" else dict
    assert repr(of_json) in str(assert_same(way, loud & "id=1"))


def test_values_are_decoded_in_their_order_up_to_the_one_that_fails(loud: Any) -> None:
    loud.update1({"id": 1, "b": "bad"})
    for way in ("to_dicts", "iteration"):
        assert assert_same(way, loud()) == (ValueError, "bad")
    half = len(LoudCodec.decoded) // 2
    assert LoudCodec.decoded[:half] == LoudCodec.decoded[half:]


def test_an_iteration_asks_when_it_begins_and_decodes_as_it_goes(loud: Any) -> None:
    rows = iter(loud())
    loud.insert1({"id": 9, "a": 9, "waveform": WAVEFORM, "b": "late"})
    assert LoudCodec.decoded == []
    assert next(rows)["id"] == 0
    assert len(LoudCodec.decoded) == 2
    assert [row["id"] for row in rows] == [1, 2, 9]


def test_another_codec_of_our_name_decodes(rich: Any) -> None:
    for way in ("to_dicts", "iteration", "fetch1(attrs)"):
        with built_in_codec():
            assert_same(way, rich & "id=5")
            assert not isinstance((rich & "id=1").to_dicts()[0]["waveform"], NpyRef)


# --- PostgreSQL's client ---------------------------------------------------------------------


ON_POSTGRESQL = pytest.mark.parametrize("database", ["postgresql"], indirect=True)


@ON_POSTGRESQL
def test_a_parser_of_the_users_own_keeps_its_columns(rich: Any) -> None:
    from psycopg2 import extras

    def loads(text: str) -> Any:
        return "mine", json.loads(text)

    connection = rich.connection
    extras.register_default_jsonb(connection._conn, loads=loads)
    try:
        assert "mine" in str(assert_same("to_dicts", rich.proj("params")))
        assert rich.to_dicts()[0]["waveform"].shape == WAVEFORM.shape
    finally:
        connection.connect()


@ON_POSTGRESQL
def test_in_another_encoding_a_json_is_the_same(rich: Any) -> None:
    connection = rich.connection
    connection._conn.set_client_encoding("LATIN1")
    try:
        for way in ("to_dicts", "iteration", "to_arrays"):
            assert "\u00fc" in str(assert_same(way, rich()))
    finally:
        connection._conn.set_client_encoding("UTF8")


@ON_POSTGRESQL
def test_a_connection_that_is_found_lost_is_made_again(
    rich: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = rich.connection
    execute, asked = connection._execute_query, []

    def lose_the_first(cursor: Any, *args: Any) -> None:
        asked.append(cursor)
        if len(asked) == 1:
            raise LostConnectionError
        execute(cursor, *args)

    monkeypatch.setattr(connection, "_execute_query", lose_the_first)
    monkeypatch.setattr(connection._config.database, "reconnect", True)
    assert type(rich.to_dicts()[0]["waveform"]._row) is str
    assert len(asked) == 2


# --- rows that are none ----------------------------------------------------------------------

INVALID = {
    "a number": "3",
    "a list": "[]",
    "a text": '"abc"',
    "a text of a JSON": '"{\\"path\\": \\"a.npy\\"}"',
    "no item": "{}",
    "other items": '{"path": 1, "store": "main", "dtype": "?!", "shape": "(1,)"}',
    "more digits than Python converts": '{"path": "a.npy", "shape": [%s]}' % ("9" * 5000),
    "lists in lists": '{"path": "a.npy", "shape": %s}' % ("[" * 25 + "]" * 25),
}


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID)
def test_an_invalid_row_is_told_when_it_is_asked(rich: Any, text: str) -> None:
    try:
        rich.connection.query(f"UPDATE {rich.full_table_name} SET waveform = %s", (text,))
    except Exception as error:  # a number that the server does not take
        assert "9" * 5000 in text, error  # noqa: PT017
        return
    for way in ("to_dicts", "iteration", "fetch1(attr)", "fetch"):
        if way == "fetch" and "9" * 5000 in text:
            continue  # psycopg2 parses it, as there is another JSON in the row
        ref = {**AS_TEXT, **OF_WHOLE_ROWS}[way](rich)
        for again in (ref, pickle.loads(pickle.dumps(ref)), copy.copy(ref)):
            with pytest.raises(ArrayCorruptError):
                again.shape  # noqa: B018
            with pytest.raises(dj_npy.NpyError):
                again.load()
            assert "invalid row" in repr(again)


@pytest.mark.parametrize(
    "text", ["{", "", "nul", "[" * 100_000, '{"path": NaN}', f"[{'9' * 5000}]", "\ud800"]
)
def test_a_text_of_anything_is_a_row_of_nothing(text: str) -> None:
    ref = NpyRef(text, dj.config)
    with pytest.raises(ArrayCorruptError):
        ref.path  # noqa: B018
    assert "invalid row" in repr(ref)


def test_a_json_of_null_is_as_it_was(rich: Any) -> None:
    rich.connection.query(f"UPDATE {rich.full_table_name} SET other = 'null'")
    for way in ("to_dicts", "iteration", "to_arrays(attrs)"):
        assert_same(way, rich())


def test_of_repeated_names_the_last_counts() -> None:
    assert NpyRef('{"path": "a.npy", "path": "b.npy"}', dj.config).path == "b.npy"


# --- a reference that is text ----------------------------------------------------------------


def test_a_reference_from_text_is_one_from_json(rich: Any) -> None:
    dask = pytest.importorskip("dask.base")

    def both() -> Iterator[NpyRef]:
        text = (rich & "id=1").fetch1("waveform")
        yield text
        yield NpyRef(json.loads(text._row), text._config)

    def same(what: Callable[[NpyRef], Any]) -> bool:
        one, other = both()
        return bool(what(one) == what(other))

    assert same(lambda ref: pickle.loads(pickle.dumps(ref))._raw)
    assert same(lambda ref: row_of(copy.copy(ref)))
    assert same(lambda ref: row_of(copy.deepcopy(ref)))
    assert same(dask.tokenize)
    assert same(repr)
    assert same(lambda ref: ref.load().tolist())
    one, other = both()
    assert hash(one) != hash(other)
    assert (one == other).all()
    assert len({one, other, one}) == 2
    assert not pickle.loads(pickle.dumps(one)).is_loaded


# --- a DataJoint that does otherwise ---------------------------------------------------------


def otherwise(function: Any, old: str, new: str) -> Any:
    """A function that looks up another name, or has another parameter."""

    def renamed(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(new if name == old else name for name in names)

    code = function.__code__
    code = code.replace(co_names=renamed(code.co_names), co_varnames=renamed(code.co_varnames))
    made = FunctionType(code, function.__globals__, function.__name__, function.__defaults__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


CORRECTED = {
    "to_dicts": fetching.cost_of_dicts,
    "__iter__": fetching.cost_of_iteration,
}


@pytest.mark.parametrize("name", CORRECTED)
def test_a_method_that_does_otherwise_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    correct = CORRECTED[name]
    original = getattr(QueryExpression, name).__wrapped__
    assert correct(original) is not original
    changed = [
        otherwise(original, "cursor", "cursor_of_tomorrow"),
        otherwise(original, "self", "query"),
        functools.partial(original),
        lambda *args, **kwargs: original(*args, **kwargs),
    ]
    for each in changed:
        assert correct(each) is each
    decode = expression.decode_attribute.__wrapped__
    monkeypatch.setattr(expression, "decode_attribute", otherwise(decode, "uuid", "uuid7"))
    assert correct(original) is original


def test_what_is_left_alone_is_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = otherwise(QueryExpression.to_dicts.__wrapped__, "cursor", "cursor_of_tomorrow")
    place = "datajoint.expression:QueryExpression.to_dicts"
    [correction] = [each for each in patches.CORRECTIONS if place in each.places]
    for owner, name in map(patches._resolve, correction.places):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr(QueryExpression, "to_dicts", changed)
    patches._correct(correction)
    assert QueryExpression.to_dicts is changed


@ON_POSTGRESQL
def test_arrays_of_a_datajoint_that_does_otherwise_are_of_parsed_json(
    rich: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rich.proj("waveform")
    assert type(rows.to_arrays()[0]["waveform"]._row) is str
    changed = otherwise(QueryExpression.to_arrays.__wrapped__, "tuple", "list")
    monkeypatch.setattr(QueryExpression, "to_arrays", fetching.arrays_without_loading(changed))
    assert type(rows.to_arrays()[0]["waveform"]._row) is dict


def test_rows_in_the_cache_of_queries_are_of_datajoints_form(rich: Any, tmp_path: Path) -> None:
    connection = rich.connection
    rows = rich.proj("waveform", "x")
    connection._config["query_cache"] = str(tmp_path)
    for way in ("to_dicts", "iteration", "to_arrays"):
        found = []
        for whose in (contextlib.nullcontext(), datajoints_own()):
            connection.purge_query_cache()
            with whose:
                connection.set_query_cache("a")
                try:
                    found += [outcome(functools.partial(WAYS[way], rows)) for _ in range(2)]
                finally:
                    connection.set_query_cache(None)
        assert found[:2] == found[2:]
