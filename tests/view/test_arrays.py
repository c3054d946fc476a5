"""Which array is meant, its parts in every dtype, and the Python that fetches them."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datajoint as dj
import numpy as np
import pytest

from dj_npy import NpyRef
from dj_npy._view import arrays as arrays_module
from tests.conftest import MakeTable
from tests.support import warm
from tests.support.servers import s3_settings
from tests.view.conftest import Page, Show
from tests.view.test_catalog import name_of


def test_an_array_of_a_row_is_described(page: Page, recording: Any) -> None:
    array = np.asfortranarray(np.zeros((2000, 4), ">f4"))
    recording.insert1({"recording_id": 1, "waveform": array})
    key = '{"recording_id": 1}'
    found = page.fine("array", table=name_of(recording), attribute="waveform", key=key).json
    ref = recording.fetch1("waveform")
    assert found.pop("code").endswith(".fetch1('waveform')[...]\n")
    assert found.pop("checksum").startswith("xxh3_128:")
    assert found.pop("title") == f"{name_of(recording)}.waveform recording_id=1"
    assert found == {
        "shape": [2000, 4],
        "dtype": ">f4",
        "nbytes": 32_000,
        "path": ref.path,
        "store": "main",
        "descr": None,
        "kind": "f",
        "fortran": True,
        "attribute": "waveform",
        "comment": "",
        "view": "trace",
        "axis": 0,
    }


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((1000,), "i2", ("trace", 0)),
        ((999,), "i2", ("h5web", 0)),
        ((4, 8000), "f8", ("trace", 1)),
        ((8000, 1001), "f8", ("h5web", 0)),
        ((50, 512, 512), "u2", ("movie", 0)),
        ((3, 16, 16), "u2", ("movie", 0)),
        ((512, 512, 3), "u1", ("h5web", 0)),
        ((2, 30, 64, 64), "u2", ("movie", 0)),
        ((64, 64), "u2", ("h5web", 0)),
        ((5000, 2), "U3", ("h5web", 0)),
        ((5000,), "c16", ("h5web", 0)),
        ((0, 512, 512), "u2", ("h5web", 0)),
        ((), "f8", ("h5web", 0)),
    ],
)
def test_a_view_is_proposed(shape: tuple[int, ...], dtype: str, expected: Any) -> None:
    assert arrays_module._proposal(shape, np.dtype(dtype), False) == expected


def test_the_frames_of_an_array_in_fortran_order_are_along_its_last_axis() -> None:
    assert arrays_module._proposal((64, 64, 50), np.dtype("u2"), True) == ("movie", 2)


DIFFERENT = [
    np.arange(24, dtype="<i2").reshape(2, 3, 4),
    np.arange(24, dtype=">i2").reshape(2, 3, 4),
    np.asfortranarray(np.arange(24, dtype=">f8").reshape(2, 3, 4)),
    np.array([[2**63 - 1, -(2**63)], [2**53 + 1, 0]], "<i8"),
    np.array([2**64 - 1, 2**53 + 1], ">u8"),
    np.array([True, False, True]),
    np.array([1.5, np.nan, np.inf], ">f2"),
    np.array([1 + 2j, complex(np.nan, 1), -1j], ">c8"),
    np.array(["2024-01-02", "NaT"], "M8[D]"),
    np.array([1, -5], ">m8[ns]"),
    np.array([b"\x00\x01\x02", b"\xff\xfe\xfd"], "V3"),
]


@pytest.mark.parametrize("array", DIFFERENT, ids=lambda array: array.dtype.str)
def test_a_part_is_sent_in_little_endian_and_c_order(given: Page, shown: Show, array: Any) -> None:
    named = shown(array)
    reply = given.fine("slice", selection=",".join([":"] * array.ndim), **named)
    assert reply.header["dtype"] == array.dtype.newbyteorder("<").str
    assert "rounded" not in reply.header
    found = reply.array()
    assert found.shape == array.shape
    assert found.tobytes() == array.astype(array.dtype.newbyteorder("<")).tobytes()
    one = given.fine("slice", selection="1" + ",:" * (array.ndim - 1), **named)
    expected = np.asarray(array[1], array.dtype.newbyteorder("<"))
    assert one.header["shape"] == list(expected.shape)
    assert one.data == expected.tobytes()


def test_long_doubles_are_rounded(given: Page, shown: Show) -> None:
    array = np.array([1, 1 / 3, np.nan], np.longdouble)
    reply = given.fine("slice", selection=":", **shown(array))
    assert (reply.header["dtype"], reply.header["rounded"]) == ("<f8", True)
    np.testing.assert_array_equal(reply.array(), array.astype("f8"))
    reply = given.fine("slice", selection=":", **shown(array.astype(np.clongdouble)))
    assert (reply.header["dtype"], reply.header["rounded"]) == ("<c16", True)


def test_text_is_sent_as_json(given: Page, shown: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = np.array([["ü", "b"], ["", "日本"]], ">U2")
    assert json.loads(given.fine("slice", selection=":,:", **shown(texts)).data) == texts.tolist()
    named = shown(np.array([b"a", "ü".encode(), b"\xff"]))
    assert json.loads(given.fine("slice", selection=":", **named).data) == ["a", "ü", "\\xff"]
    monkeypatch.setattr(arrays_module, "_MOST_TEXT", 5)
    assert "6 bytes of text" in given.refused(413, "slice", selection=":", **named)


def test_records_are_sent_as_they_are(given: Page, shown: Show) -> None:
    dtype = np.dtype([("a", ">i2"), ("b", "<f8", (2,)), ("c", "S3")], align=True)
    array = np.zeros(5, dtype)
    array["a"], array["b"], array["c"] = range(5), 1.5, b"xyz"
    named = shown(array)
    descr = given.fine("array", **named).json["descr"]
    found = np.frombuffer(given.fine("slice", selection="1:4", **named).data, dtype)
    for name in ("a", "b", "c"):
        np.testing.assert_array_equal(found[name], array[1:4][name])
    assert [field[0] for field in descr if field[0]] == ["a", "b", "c"]


def test_arrays_without_axes_or_elements_are_sent(given: Page, shown: Show) -> None:
    named = shown(np.array(5.5))
    assert given.fine("slice", selection="", **named).array().tolist() == 5.5
    named = shown(np.zeros((0, 3)))
    assert given.fine("slice", selection=":,:", **named).header["shape"] == [0, 3]
    assert given.fine("array", **named).json["view"] == "h5web"


@pytest.mark.parametrize("wrong", ["5", "x", "0:x", "-1", "1:2:3", ":,:,:", "1.5", "...", "9" * 30])
def test_a_selection_that_is_none_is_refused(given: Page, shown: Show, wrong: str) -> None:
    given.refused(400, "slice", selection=wrong, **shown(np.zeros((3, 4))))


def test_no_more_than_a_bound_is_read(
    given: Page, shown: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays_module, "MOST", 8000)
    named = shown(np.zeros((100, 100)))
    assert given.fine("slice", selection="0:10", **named).header["shape"] == [10, 100]
    message = given.refused(413, "slice", selection="0:11", **named)
    assert "8.59 KiB" in message
    # A column lies among all others.
    given.refused(413, "slice", selection=":,0:1", **named)
    for form in ("npy", "csv"):
        given.refused(413, "export", selection=":", format=form, **named)
    given.server.app.arrays.given[named["given"]].load()
    given.refused(413, "slice", selection=":", **named)
    assert given.fine("slice", selection=":,0", **named).header["shape"] == [100]


def test_nothing_is_kept_in_memory(given: Page, shown: Show) -> None:
    named = shown(np.zeros((100, 100)))
    given.fine("slice", selection=":", **named)
    assert not given.server.app.arrays.given[named["given"]].is_loaded


def test_files_that_are_missing_or_damaged_are_told(
    page: Page, recording: Any, store: Path
) -> None:
    recording.insert({"recording_id": n, "waveform": np.zeros((3, 4))} for n in range(3))
    paths = [store / path.path for path in recording.to_arrays("waveform", order_by="KEY")]
    paths[0].unlink()
    paths[1].write_bytes(b"nonsense")
    os.truncate(paths[2], 100)
    for n in range(3):
        key = json.dumps({"recording_id": n})
        named = {"table": name_of(recording), "attribute": "waveform", "key": key}
        page.fine("array", **named)
        for name in ("slice", "trace", "export"):
            message = page.refused(409, name, **named)
            assert f"recording_id={n}" in message


def test_a_store_that_cannot_be_reached_is_told(
    given: Page, stored: Callable[..., NpyRef], moto: str, location: str, impatient: None
) -> None:
    settings = s3_settings(moto, location=location)
    ref = stored(np.zeros((3, 4)), store=settings)
    settings["secret_key"] = "another-secret-key"
    settings["endpoint"] = "http://127.0.0.1:9"
    message = given.refused(502, "slice", selection=":", given=given.give(ref))
    assert "another-secret-key" not in message


def test_a_store_that_is_not_configured_is_told(page: Page, recording: Any, database: Any) -> None:
    recording.insert1({"recording_id": 1, "waveform": np.zeros(3)})
    database.config.stores = {}
    named = {"table": name_of(recording), "attribute": "waveform", "key": '{"recording_id": 1}'}
    assert "main" in page.refused(502, "slice", selection=":", **named)


def test_an_array_that_was_not_given_is_refused(given: Page) -> None:
    given.refused(404, "array", given=0)
    given.refused(400, "array", given="x")
    given.refused(400, "array", given="-1")


CODE = """
import sys, json, warnings
warnings.simplefilter("ignore")
import datajoint as dj, numpy as np
info = json.loads(sys.argv[1])
for name, value in info.items():
    dj.config["database." + name] = value
dj.config.stores = json.loads(sys.argv[2])
names = {}
exec(sys.argv[3], names)
print(json.dumps(np.asarray(names["waveform"]).tolist()))
"""


def run_code(database: Any, code: str) -> Any:
    """Run it in a session in which only database and stores are configured."""
    info = database.connection.conn_info
    settings = {
        "backend": database.connection.adapter.backend,
        "host": info["host"],
        "port": info["port"],
        "user": info["user"],
        "password": info["passwd"],
        "use_tls": False,
    }
    stores = json.dumps(database.config.stores)
    return json.loads(warm.output("-c", CODE, json.dumps(settings), stores, code).splitlines()[-1])


def test_the_code_fetches_what_is_shown(page: Page, table: MakeTable, database: Any) -> None:
    odd = table(
        "subject : varchar(20)\nn : int64\nday : date\n---\nwaveform : <npy@>", "Odd", dj.Lookup
    )
    array = np.arange(2000 * 6).reshape(2000, 6)
    row = {"subject": 'it\'s "50%"', "n": (1 << 60) + 1, "day": "2024-01-02"}
    odd.insert([{**row, "waveform": array}, {**row, "n": 1 << 60, "waveform": -array}])
    key = json.dumps({**row, "n": str(row["n"])})
    named = {"table": name_of(odd), "attribute": "waveform", "key": key}
    code = page.fine("code", selection="1_0:1200,0:6".replace("_", ""), **named).json["code"]
    assert "fetch1('waveform')[10:1_200]\n" in code
    assert code.startswith("import datajoint as dj\nimport dj_npy\n")
    assert run_code(database, code) == array[10:1200].tolist()
    code = page.fine("code", selection="1999,2:4", **named).json["code"]
    assert code.endswith("[1_999, 2:4]\n")
    assert run_code(database, code) == array[1999, 2:4].tolist()
    code = page.fine("code", selection=":,0:3", **named).json["code"]
    assert code.endswith("[:, :3]\n")
    assert run_code(database, page.fine("array", **named).json["code"]) == array.tolist()
    code = page.fine("code", kind="mean", axis=0, **named).json["code"]
    assert run_code(database, code) == array.mean(axis=0).tolist()
    page.refused(400, "code", kind="system('x')", **named)
    records = np.array([(1, 2.5), (2, 3.5), (3, 4.5)], [("n", "<i4"), ("x", ">f8")])
    odd.insert1({**row, "n": 1, "waveform": records})
    named["key"] = json.dumps({**row, "n": 1})
    for selection, expected in ((":", [2.5, 3.5, 4.5]), ("1:3", [3.5, 4.5])):
        code = page.fine("code", selection=selection, field="x", **named).json["code"]
        assert run_code(database, code) == expected
    page.refused(400, "code", selection=":", field="y", **named)


def test_a_name_of_an_attribute_is_no_python(page: Page, recording: Any) -> None:
    """It may be any that a database takes, and whoever copies the code runs it."""
    recording.insert1({"recording_id": 1, "waveform": np.zeros(3)})
    evil = "x=exec(input())#"
    name, quote = recording.full_table_name, recording.connection.adapter.quote_identifier
    recording.connection.query(f"ALTER TABLE {name} RENAME COLUMN waveform TO {quote(evil)}")
    named = {"table": name_of(recording), "attribute": evil, "key": '{"recording_id": 1}'}
    code = page.fine("code", selection="1:", **named).json["code"]
    assert (
        code.splitlines()[-1]
        == f"array = (Recording & {{'recording_id': 1}}).fetch1({evil!r})[1:3]"
    )


def test_exports_are_files(given: Page, shown: Show) -> None:
    array = np.arange(12, dtype=">f4").reshape(3, 4) + 0.1
    named = shown(array)
    reply = given.fine("export", selection="1:3", format="npy", **named)
    assert reply.headers["content-disposition"] == 'attachment; filename="array.npy"'
    found = np.load(io.BytesIO(reply.body))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array[1:3])
    reply = given.fine("export", selection="1:3", format="csv", **named)
    assert reply.headers["content-type"].startswith("text/csv")
    np.testing.assert_array_equal(
        np.loadtxt(io.BytesIO(reply.body), delimiter=",").astype("f4"), array[1:3]
    )
    assert given.fine("export", selection="1", format="csv", **named).body.count(b"\n") == 4
    assert given.fine("export", selection="1,1", format="csv", **named).body.count(b"\n") == 1
    given.refused(400, "export", selection="1", format="exe", **named)
    given.refused(413, "export", selection=":", format="csv", **shown(np.zeros((2, 2, 2))))
    for empty in (np.zeros((0, 3)), np.zeros(0)):
        assert given.fine("export", selection=":", format="csv", **shown(empty)).body == b""
    records = np.array([(1, "a,b"), (2, "c")], [("n", "i4"), ("text", "U3")])
    reply = given.fine("export", selection=":", format="csv", **shown(records))
    assert reply.body.decode() == 'n,text\n1,"a,b"\n2,c\n'
    reply = given.fine("export", selection="1:2", field="n", format="npy", **shown(records))
    assert np.load(io.BytesIO(reply.body)).tolist() == [2]
    days = np.array(["2024-01-02", "NaT"], "M8[D]")
    reply = given.fine("export", selection=":", format="csv", **shown(days))
    assert reply.body == b"2024-01-02\nNaT\n"


@pytest.mark.parametrize("kind", ["seaweedfs", "azure", "moto"])
def test_arrays_come_from_every_store(
    given: Page, stored: Callable[..., NpyRef], location: str, kind: str, request: Any
) -> None:
    if kind == "azure":
        connection = request.getfixturevalue("azurite")
        settings = {
            "protocol": "azure",
            "container": "bucket",
            "location": location,
            "connection_string": connection,
        }
    else:
        settings = s3_settings(request.getfixturevalue(kind), location=location)
    array = np.random.default_rng(1).integers(-100, 100, (300_000, 16), "i2")
    number = given.give(stored(array, store=settings))
    reply = given.fine("slice", selection="1000:3000,2:5", given=number)
    np.testing.assert_array_equal(reply.array(), array[1000:3000, 2:5])
    reply = given.fine("trace", start=0, stop=300_000, channels="0:2", width=100, given=number)
    expected = array.reshape(100, 3000, 16)[:, :, :2]
    lowest, highest = reply.array("<f4", 2, 2, 100)
    np.testing.assert_array_equal(lowest, expected.min(axis=1).T)
    np.testing.assert_array_equal(highest, expected.max(axis=1).T)
