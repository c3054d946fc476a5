"""What a notebook shows of references, alone and in tables; none of it does any I/O."""

import base64
import re
import tracemalloc
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dj_npy
from dj_npy._array.html import html_text, reference_html
from dj_npy._array.picture import _COLOURS, picture
from dj_npy._format.metadata import ArrayMetadata
from dj_npy._text import in_units
from tests.support.arrays import arrays

Stored = Callable[..., dj_npy.NpyRef]
MOST_CHARACTERS = 8_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ROWS = JSON | st.fixed_dictionaries(
    {},
    optional={
        "path": JSON | st.just("a/<b>.npy"),
        "store": JSON | st.just("main"),
        "dtype": JSON | st.sampled_from(["float64", "V99999", "[('<i>', '<f8')]"]),
        "shape": JSON | st.lists(st.integers(0, 2**62), max_size=4),
        "offset": JSON,
        "fortran_order": JSON,
    },
)


def html_of(ref: dj_npy.NpyRef) -> str:
    return ref._repr_html_()


def text_of(html: str) -> str:
    """What a reader sees, and that the HTML is well-formed."""
    tree = ElementTree.fromstring(html)
    for style in tree.findall(".//style"):
        style.text = ""
    return " ".join(" ".join(tree.itertext()).split())


def paths_of(svg: str) -> list[str]:
    return re.findall(r'<path d="([^"]*)"', svg)


def pixels(svg: str) -> Any:
    """The palette's numbers in an image, read by the rules of PNG."""
    [data] = re.findall(r"base64,([^\"]*)", svg)
    png, position, found = base64.b64decode(data), 8, {}
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    while position < len(png):
        length = int.from_bytes(png[position : position + 4], "big")
        kind, body = png[position + 4 : position + 8], png[position + 8 : position + 8 + length]
        said = png[position + 8 + length : position + 12 + length]
        assert zlib.crc32(kind + body) == int.from_bytes(said, "big")
        found[kind] = body
        position += 12 + length
    width, height = (int.from_bytes(found[b"IHDR"][i : i + 4], "big") for i in (0, 4))
    rows = np.frombuffer(zlib.decompress(found[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    assert rows.max() < len(found[b"PLTE"]) // 3
    assert found[b"tRNS"] == b"\0"  # the first colour, of what is no number, is transparent
    return rows[:, 1:]


def test_before_loading_it_says_what_the_row_says(stored: Stored, opened: list[str]) -> None:
    ref = stored(np.zeros((1000, 32)))
    opened.clear()
    html = html_of(ref)
    assert text_of(html) == (
        "NpyRef not loaded shape (1000, 32) dtype float64 size 250 KiB (256,000 bytes) "
        "store main path lab/recording/recording_id=1/waveform.npy"
    )
    assert "<svg" not in html
    assert not opened
    assert not ref.is_loaded


def test_a_store_that_cannot_be_reached_is_not_asked() -> None:
    spec = {"protocol": "s3", "endpoint": "http://127.0.0.1:9", "bucket": "b", "location": "l"}
    config = SimpleNamespace(stores={"main": spec}, get_store_spec=lambda _: 1 / 0)
    row = {"path": "a/b.npy", "store": "main", "dtype": "int16", "shape": [4, 5]}
    text = text_of(html_of(dj_npy.NpyRef(row, config)))
    assert "size 40 bytes store main path a/b.npy" in text


def test_once_loaded_there_is_a_picture(stored: Stored, opened: list[str]) -> None:
    ref = stored(np.arange(10.0))
    ref.load()
    opened.clear()
    html = html_of(ref)
    assert text_of(html).startswith("NpyRef loaded shape (10,)")
    assert text_of(html).endswith("0 to 9")
    assert len(paths_of(html)) == 1
    ref.unload()
    assert "<svg" not in html_of(ref)
    assert not opened


def test_the_default_store_is_named_so() -> None:
    row = {"path": "a.npy", "store": None, "dtype": "int16", "shape": [4]}
    assert "store the default store" in text_of(html_of(dj_npy.NpyRef(row, SimpleNamespace())))


@given(ROWS)
@settings(deadline=None, max_examples=150)
def test_any_row_is_shown(row: Any) -> None:
    ref = dj_npy.NpyRef(row, SimpleNamespace(stores={}))
    html = html_of(ref)
    html.encode()
    text = text_of(html)
    assert text.startswith(("NpyRef not loaded", "NpyRef invalid row"))
    assert len(html) < MOST_CHARACTERS + 6 * 300 * 5
    repr(ref).encode(errors="surrogatepass")


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "'\"><img src=x onerror=y>", "&lt;"]
)
def test_what_a_row_holds_is_text(hostile: str) -> None:
    row = {"path": hostile, "store": hostile, "dtype": hostile, "shape": [3]}
    html = html_of(dj_npy.NpyRef(row, SimpleNamespace()))
    plain = html_of(dj_npy.NpyRef({**row, "path": "p", "store": "s", "dtype": "no"}, None))  # type: ignore[arg-type]
    assert text_of(html).count(hostile) >= 2
    assert re.findall(r"<\w+", html) == re.findall(r"<\w+", plain)


def test_names_of_fields_are_text_in_the_picture_too(stored: Stored) -> None:
    ref = stored(np.zeros(10, [("<script>", "f8")]))
    ref.load()
    assert "<script" not in html_of(ref)
    assert "field '<script>'" in text_of(html_of(ref))


def test_what_cannot_be_printed_is_escaped_and_long_things_are_cut() -> None:
    assert html_text("a\u202eb\ud800\n\x1b[31m") == "a\\u202eb\\ud800\\n\\x1b[31m"
    assert len(html_text("x" * 10_000)) == 300


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1 KiB (1,024 bytes)"),
        (1024**2 - 1, "1 MiB (1,048,575 bytes)"),
        (256_000_000, "244 MiB (256,000,000 bytes)"),
        (2**63, "8 EiB (9,223,372,036,854,775,808 bytes)"),
        (2**80, "1.05e+06 EiB (1,208,925,819,614,629,174,706,176 bytes)"),
    ],
)
def test_sizes_are_in_units(nbytes: int, text: str) -> None:
    assert in_units(nbytes) == text


def test_the_style_is_for_references_only(stored: Stored) -> None:
    html = html_of(stored(np.zeros(3)))
    [style] = re.findall("<style>(.*?)</style>", html)
    selectors = re.findall(r"([^{}]+)\{[^{}]*\}", style)
    assert selectors
    assert all(re.match(r"\.dj-npy\b", selector) for selector in selectors)
    assert " id=" not in html


def test_text_has_the_colour_of_the_page_and_lines_are_seen_on_black_and_on_white() -> None:
    html = reference_html(ArrayMetadata({}), None)
    [style] = re.findall("<style>(.*?)</style>", html)
    assert "color:inherit" in style
    assert "--jp-brand-color1" in style
    used = set(re.findall("#[0-9a-f]{6}", style + "".join(_COLOURS)))
    assert len(used) == 4
    for colour in used:
        light = luminance(colour)
        assert 1.05 / (light + 0.05) > 3  # of a large sign on white, by WCAG
        assert (light + 0.05) / (luminance("#111111") + 0.05) > 3


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@given(arrays())
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_any_array_has_a_small_picture_or_none(array: Any) -> None:
    array.flags.writeable = False
    html = reference_html(ArrayMetadata({}), array)
    text_of(html)
    html.encode()
    assert len(html) < MOST_CHARACTERS


@pytest.mark.parametrize(
    "array",
    [
        np.broadcast_to(np.sin(np.arange(1 << 16)), (1 << 11, 1 << 16)),
        np.zeros(1 << 27),
        np.zeros((1 << 25, 4)),
        np.zeros((1 << 9, 1 << 9, 1 << 9)),
        np.zeros((1 << 13, 1 << 14), order="F"),
    ],
    ids=lambda array: str(array.shape),
)
def test_a_gigabyte_takes_no_memory(array: Any) -> None:
    assert array.nbytes == 1 << 30
    picture(array)
    tracemalloc.start()
    svg, _ = picture(array)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert svg
    assert peak < 2 << 20


def test_a_short_line_goes_through_every_value() -> None:
    [path] = paths_of(picture(np.array([0.0, 1, 0.5]))[0])
    assert re.findall(r"[ML][\d ]+", path) == ["M0 400", "L500 0", "L1000 200"]


def test_a_line_has_gaps_where_there_is_no_number() -> None:
    [path] = paths_of(picture(np.array([0, 1, np.nan, 1, 0, np.inf, 0]))[0])
    assert path.count("M") == 3


@pytest.mark.parametrize("shape", [(9,), (20, 30)])
def test_nothing_finite_has_a_caption_and_no_picture(shape: tuple[int, ...]) -> None:
    assert picture(np.full(shape, np.nan)) == ("", "no finite value")


def test_one_peak_of_many_values_is_seen() -> None:
    values = np.zeros(5000)
    values[3210] = 7
    svg, caption = picture(values)
    assert caption == "0 to 7"
    assert re.search(r" 0[LZ]", paths_of(svg)[0])


def test_a_gap_in_many_values_is_one() -> None:
    values = np.sin(np.arange(5000))
    values[2000:3000] = np.nan
    svg, caption = picture(values)
    assert paths_of(svg)[0].count("M") == 2
    assert caption.endswith("1,000 not finite")


@pytest.mark.parametrize("shape", [(100, 3), (3, 100), (100, 1), (1, 100), (1, 100, 1)])
def test_few_columns_or_rows_are_lines(shape: tuple[int, ...]) -> None:
    assert len(paths_of(picture(np.zeros(shape))[0])) == (3 if 3 in shape else 1)


def test_a_heat_map_has_a_colour_for_each_value_and_none_for_no_number() -> None:
    values = np.arange(30.0).reshape(5, 6)
    values[2, 3], values[0, 5] = np.nan, -np.inf
    svg, caption = picture(values)
    found = pixels(svg)
    assert caption == "0 to 29, 2 not finite"
    assert found.shape == (5, 6)
    assert (found[2, 3], found[0, 5], found[0, 0], found[4, 5]) == (0, 0, 1, 63)
    assert (np.diff(found[3]) > 0).all()


def test_a_large_heat_map_is_drawn_from_some_of_its_values() -> None:
    svg, caption = picture(np.add.outer(np.arange(1000), np.arange(500)))
    found = pixels(svg)
    assert found.shape == (48, 72)
    assert (np.diff(found.astype(int), axis=0) >= 0).all()
    assert caption.endswith("of 3,456 values looked at")


def test_proportions_of_an_image_are_kept() -> None:
    assert 'width="104"' in picture(np.zeros((50, 50)))[0]
    assert 'width="208"' in picture(np.zeros((50, 100)))[0]
    assert 'width="260"' in picture(np.zeros((1000, 32)))[0]


@pytest.mark.parametrize(
    ("array", "caption"),
    [
        (np.array(3.5), "3.5"),
        (np.array([[7]], "i2"), "7"),
        (np.array(b"<x>"), "b'<x>'"),
        (np.empty((0, 3)), "no elements"),
        (np.full(9, np.nan), "no finite value"),
        (np.array(["a", "b"]), ""),
        (np.array([False, True, True]), "False to True"),
        (np.array([3 + 4j, 0, 1j]), "0 to 5, absolute values"),
        (np.array([1, 2**64 - 1], ">u8"), "1 to 18446744073709551615"),
        (np.array([-1.7e308, 0, 1.7e308]), "-1.7e+308 to 1.7e+308"),
        (np.array([1.0, 2], ">f2"), "1 to 2"),
        (np.array(["2026-11-24", "NaT"], ">M8[D]"), "2026-11-24 to 2026-11-24, 1 not finite"),
        (np.array([5, 1], "m8[s]"), "1 seconds to 5 seconds"),
        (np.ones((3, 3)), "1 to 1"),
        (np.zeros((9, 20, 20)), "0 to 0, [4, :, :]"),
        (np.zeros((20, 20, 3)), "0 to 0, [:, :, 0]"),
        (np.zeros((9, 5, 20, 20, 3)), "0 to 0, [4, 2, :, :, 0]"),
        (np.zeros(9, [("name", "S3"), ("x", ">f4", (4,)), ("y", "i2")]), "0 to 0, field 'x'"),
        (np.zeros(9, [("name", "S3")]), ""),
    ],
)  # fmt: skip
def test_what_is_said_beneath(array: Any, caption: str) -> None:
    assert picture(array)[1] == caption


# Tables of references


def frame(stored: Stored) -> tuple[pd.DataFrame, list[dj_npy.NpyRef]]:
    refs = [stored(np.zeros((10, 3)), number) for number in range(3)]
    return pd.DataFrame({"recording_id": range(3), "waveform": refs}), refs


LINE = "NpyRef(shape=(10, 3), dtype=float64, not loaded)"


@pytest.mark.parametrize(
    "show",
    [
        repr,
        pd.DataFrame._repr_html_,
        pd.DataFrame.to_html,
        pd.DataFrame.to_string,
        pd.DataFrame.to_csv,
        lambda table: repr(table.head(2)),
        lambda table: repr(table.waveform),
        lambda table: repr(table.iloc[0]),
        lambda table: repr(table.sort_values("recording_id").merge(table[["recording_id"]])),
        lambda table: repr(table.dropna().fillna(0).copy()),
        lambda table: repr(table.groupby("recording_id").first()),
        lambda table: repr(table.set_index("recording_id").waveform.to_frame()),
        lambda table: repr(pd.concat([table, table])),
    ],
)
def test_pandas_shows_references_and_loads_none(show: Any, stored: Stored) -> None:
    table, refs = frame(stored)
    assert LINE in show(table)
    assert not any(ref.is_loaded for ref in refs)


@pytest.mark.parametrize(
    "ask",
    [
        pd.DataFrame.describe,
        pd.DataFrame.info,
        pd.DataFrame.isna,
        pd.DataFrame.memory_usage,
        lambda table: table.waveform.map(lambda ref: ref.shape),
        lambda table: table[table.recording_id > 0],
    ],
)
def test_pandas_loads_no_reference_for_what_it_computes(ask: Any, stored: Stored) -> None:
    table, refs = frame(stored)
    repr(ask(table))
    assert not any(ref.is_loaded for ref in refs)


def test_pandas_before_3_1_takes_a_reference_for_no_sequence() -> None:
    from pandas.io.formats import printing

    ask = getattr(printing, "is_sequence", None)
    if ask is not None:
        assert not ask(dj_npy.NpyRef({}, SimpleNamespace()))
        assert ask([1])


@pytest.mark.parametrize(
    "show",
    [
        repr,
        pl.DataFrame._repr_html_,
        lambda table: repr(table.head(1)),
        lambda table: table.glimpse(return_type="string"),
        lambda table: repr(table["waveform"]),
    ],
)
def test_polars_shows_references_and_loads_none(show: Any, stored: Stored) -> None:
    _, refs = frame(stored)
    table = pl.DataFrame({"waveform": pl.Series("waveform", refs, dtype=pl.Object)})
    assert "NpyRef(shape=(10, 3)" in show(table)
    repr(table.describe())
    assert not any(ref.is_loaded for ref in refs)


def test_tables_that_datajoint_makes_show_references(recording: Any, opened: list[str]) -> None:
    recording.insert([{"recording_id": i, "waveform": np.zeros((10, 3))} for i in range(3)])
    opened.clear()
    assert LINE in repr(recording.to_pandas())
    assert LINE in recording.to_pandas()._repr_html_()
    assert "NpyRef(shape=(10, 3)" in repr(recording.to_polars())
    assert not opened


def test_datajoints_own_preview_names_the_type(recording: Any, opened: list[str]) -> None:
    recording.insert([{"recording_id": i, "waveform": np.zeros((10, 3))} for i in range(3)])
    opened.clear()
    assert repr(recording()).count("<npy>") == 3
    assert recording()._repr_html_().count("<td>&lt;npy&gt;</td>") == 3
    assert not opened
