"""What a query may say of an attribute whose arrays lie in files."""

from collections.abc import Callable
from typing import Any

import datajoint as dj
import numpy as np
import pandas as pd
import pytest

import dj_npy
from tests.conftest import MakeTable, is_mariadb
from tests.support.cases import case

A = np.arange(6.0).reshape(2, 3)


@pytest.fixture
def scans(table: MakeTable) -> Any:
    scans = table(
        "subject : varchar(9)\nscan : int32\n---\nn = 0 : int32\nwaveform = null : <npy@>", "Scan"
    )
    rows = [{"subject": "a%/b", "scan": n, "n": n, "waveform": A + n} for n in range(3)]
    scans.insert([*rows, {"subject": "c", "scan": 3, "n": 3, "waveform": None}])
    return scans


def numbers(query: Any) -> list[int]:
    return sorted(row["scan"] for row in query.proj().to_dicts())


def test_a_fetched_row_restricts(scans: Any, opened: list[str]) -> None:
    rows = scans.to_dicts(order_by="scan")
    records = scans.to_arrays(order_by="scan")
    other = dj.U("n") & scans
    ways: list[tuple[Any, list[int]]] = [
        (scans & rows[1], [1]),
        (scans & rows[3], [3]),
        (scans & records[1], [1]),
        (scans - {"waveform": rows[1]["waveform"]}, [0, 2]),
        (scans & dj.Not({"waveform": rows[1]["waveform"]}), [0, 2]),
        (scans - rows[1], [0, 2, 3]),
        (scans - rows[3], [0, 1, 2]),
        (scans - records[1], [0, 2, 3]),
        (scans & dj.Not(dj.Not(rows[1])), [1]),
        (scans & [dj.Not(rows[1]), rows[1]], [0, 1, 2, 3]),
        (scans & dj.AndList([dj.Not(rows[1]), "n > 0"]), [2, 3]),
        (scans - dj.AndList([rows[1], "n > 0"]), [0, 2, 3]),
        (scans - {"scan": 1, "waveform": rows[1]["waveform"]}, [0, 2, 3]),
        (scans & rows[:2], [0, 1]),
        (scans & pd.DataFrame(rows[:2]), [0, 1]),
        (scans & dj.AndList([rows[1], "n > 0"]), [1]),
        (scans & {"waveform": rows[2]["waveform"]}, [2]),
        (scans & {"waveform": None}, [3]),
        (scans & {"waveform": rows[2]["waveform"], "n": 1}, []),
        (scans.proj(film="waveform") & {"film": rows[2]["waveform"]}, [2]),
        (scans & "waveform IS NOT NULL", [0, 1, 2]),
        (scans & "waveform is null or n > 1", [2, 3]),
        (scans & "not (waveform) is null and NOT ((n = 3))", [0, 1, 2]),
        (scans & {"waveform.dtype": "float64"}, [0, 1, 2]),
    ]
    for query, expected in ways:
        assert numbers(query) == expected
    assert rows[1] in scans()
    assert len(other & rows[1]) == 1  # what has no such attribute ignores it
    (scans & rows[1]).delete_quick()
    assert numbers(scans()) == [0, 2, 3]
    assert opened == []


def test_floats_of_a_fetched_row_are_not_compared(table: MakeTable) -> None:
    scans = table(
        "scan : int32\n---\nwaveform = null : <npy@>\ndepth = null : float32\nx = null : float64"
    )
    values = [(0.1, 1.1234567), (1.1, None), (None, 1e300)]
    scans.insert(
        {"scan": n, "waveform": A, "depth": depth, "x": x} for n, (depth, x) in enumerate(values)
    )
    scans.insert1({"scan": 3, "waveform": None, "depth": 1.1, "x": 0.1})
    rows = scans.to_dicts(order_by="scan")
    for n, row in enumerate(rows):
        assert numbers(scans & row) == [n]
        assert numbers(scans - row) == [m for m in range(4) if m != n]
        assert numbers(scans & {**row, "scan": 9}) == []
    assert numbers(scans & pd.DataFrame(rows[:2])) == [0, 1]
    computed = scans.proj(..., half="depth / 3")
    assert numbers(computed & computed.to_dicts(order_by="scan")[1]) == [1]
    assert numbers(scans & {"waveform": rows[0]["waveform"], "x": 9.5}) == []  # not a row


WRONG: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "a reference": (lambda q, ref: q & ref, "NpyRef is no restriction.*'waveform': ref"),
    "references": (lambda q, ref: q & [ref], "NpyRef is no restriction"),
    "a view": (lambda q, ref: q & ref.T, "View is no restriction"),
    "an array": (lambda q, ref: q & {"waveform": A}, r"ndarray of shape \(2, 3\).*by the key"),
    "a list": (lambda q, ref: q & {"waveform": [1, 2]}, "waveform cannot be compared with a list"),
    "a number": (lambda q, ref: q & {"waveform": 3}, "compared with an int 3"),
    "NaN": (lambda q, ref: q & [{"n": 1, "waveform": np.nan}], "compared with a float nan"),
    "equal": (lambda q, ref: q & "waveform = 3", "waveform cannot be compared"),
    "more": (lambda q, ref: q & "n < 2 and waveform > 3", "waveform cannot be compared"),
    "not": (lambda q, ref: q & 'NOT "waveform" <> 3', "waveform cannot be compared"),
    "like": (lambda q, ref: q & "`waveform` LIKE 'a'", "waveform cannot be compared"),
    "not in": (lambda q, ref: q & "waveform not in (1, 2)", "waveform cannot be compared"),
    "an order": (lambda q, ref: q.to_dicts(order_by="waveform DESC"), "cannot be ordered"),
    "an order of several": (
        lambda q, ref: q.to_arrays("n", order_by=("n", "waveform")),
        "cannot be ordered",
    ),
    "the first": (lambda q, ref: q & dj.Top(1, "waveform"), "waveform cannot be ordered"),
    "of a new name": (
        lambda q, ref: q.proj(film="waveform").to_dicts(order_by="film"),
        "film cannot be ordered",
    ),
    "of a new name in capitals": (
        lambda q, ref: q.proj(Film="waveform") & "Film > 3",
        "film cannot be compared",
    ),
    "an order of a new name in capitals": (
        lambda q, ref: q.proj(Film="waveform").to_dicts(order_by="Film"),
        "film cannot be ordered",
    ),
    "computed": (lambda q, ref: q.proj(x="waveform + 1"), "waveform cannot be .*computed"),
    "an order of two": (lambda q, ref: q.to_dicts(order_by="n, waveform DESC"), "be ordered"),
    "an order in brackets": (lambda q, ref: q.to_dicts(order_by="(waveform)"), "be ordered"),
    "an order of keys": (lambda q, ref: q.keys(order_by="waveform DESC"), "be ordered"),
    "an order of what is left out": (
        lambda q, ref: q.proj("n").to_dicts(order_by="waveform"),
        "waveform cannot be ordered",
    ),
    "less": (lambda q, ref: q & "3 < waveform", "waveform cannot be compared"),
    "in brackets": (lambda q, ref: q & "(waveform) > 3", "waveform cannot be compared"),
    "a function": (lambda q, ref: q & "abs(waveform) > 3", "waveform cannot be compared"),
    "itself": (lambda q, ref: q & "waveform", "waveform cannot be compared"),
    "one of two": (
        lambda q, ref: q & "waveform IS NULL OR waveform > n",
        "waveform cannot be compared",
    ),
    "a number of it": (lambda q, ref: q & "cast(waveform as decimal) > 3", "cannot be compared"),
    "computed from": (lambda q, ref: q.proj(x="1+waveform"), "waveform cannot be computed"),
    "a root": (lambda q, ref: q.proj(x="sqrt(waveform)"), "waveform cannot be computed"),
    "computed from what is left out": (
        lambda q, ref: q.proj("n").proj(x="waveform + 1"),
        "waveform cannot be computed",
    ),
    "for a number": (lambda q, ref: q & {"n": ref}, "n is no attribute of arrays.*an? NpyRef"),
    "for a key": (lambda q, ref: q - [{"scan": ref}], "scan is no attribute of arrays"),
    "for a path": (lambda q, ref: q & {"waveform.path": ref}, "waveform.path is no attribute"),
    "the largest": (lambda q, ref: dj.U().aggr(q, x="max(waveform)"), "computed"),
}


def test_what_no_database_can_answer_is_told(scans: Any, opened: list[str]) -> None:
    ref = (scans & "scan = 1").fetch1("waveform")
    for what, (call, message) in WRONG.items():
        with case(what):
            with pytest.raises(dj_npy.ArrayInvalidError, match=message) as told:
                call(scans(), ref)
            assert len(str(told.value).splitlines()) == 1
            assert opened == []


def test_what_a_row_says_can_be_computed_with(scans: Any, database: Any) -> None:
    assert {row["rows"] for row in scans.proj(rows="waveform.shape[0]").to_dicts()} == {"2", None}
    assert dj.U().aggr(scans, count="count(waveform)").fetch1("count") == 3
    assert scans.proj(film="waveform").fetch("film", limit=1)[0].shape == (2, 3)
    assert scans.proj(film="(waveform)").fetch("film", limit=1)[0].shape == (2, 3)
    assert len(scans & "subject = 'waveform = 3'") == 0
    assert len(scans & "subject = 'it''s waveform'") == 0
    assert len(scans & "CASE WHEN waveform IS NULL THEN 1 ELSE 0 END = 1") == 1
    assert len(scans & "CAST(waveform AS CHAR(900)) like '%float64%'") == 3
    if database.connection.adapter.backend == "mysql":
        assert len(scans & 'subject = "waveform"') == 0
        assert len(scans & r"subject = 'it\'s waveform'") == 0
        assert len(scans & "json_contains(json_array(lower('FLOAT64')), waveform, '$')") == 0
        assert len(scans & "isnull(waveform)") == 1
        assert len(scans & "json_extract(waveform, '$.shape[0]') = 2") == 3
        assert len(scans & "json_length(waveform) > 3") == 3
    else:
        assert len(scans & "waveform->>'dtype' = 'float64'") == 3
        assert len(scans & "waveform::TEXT like '%float64%'") == 3
        assert len(scans & "'2' = jsonb_extract_path_text(to_jsonb(waveform), 'shape', '0')") == 3
        assert len(scans & "waveform #>> '{shape,0}' = '2'") == 3
        assert len(scans & "waveform @? '$.shape'") == 3
        assert len(scans & """'{"dtype": "float64"}' <@ waveform""") == 3
        assert len(scans & "waveform <@ '{}'") == 0
        assert len(scans & "waveform['offset'] is not null") == 3
        assert len(scans & "waveform NOTNULL and waveform IS JSON") == 3
        assert len(scans & r"subject = 'C:\\' and subject = 'waveform'") == 0


def test_a_path_that_mysql_would_cut_is_refused(table: MakeTable, database: Any) -> None:
    names = [f"k{n}" for n in range(5)]
    long = table(
        "\n".join(f"{name} : varchar(110)" for name in names) + "\n---\nwaveform : <npy@>", "Long"
    )
    long.insert1({**dict.fromkeys(names, 108 * "x"), "waveform": A})
    ref = long.fetch1("waveform")
    is_mysql = database.connection.adapter.backend == "mysql" and not is_mariadb(database)
    assert len(ref.path) > 512
    assert len(long & {"waveform.path": ref.path}) == (0 if is_mysql else 1)
    if database.connection.adapter.backend == "postgresql":
        assert len(long & {"waveform": ref}) == 1
        return
    with pytest.raises(dj_npy.ArrayInvalidError, match="waveform cannot be compared"):
        _ = long & {"waveform": ref}
