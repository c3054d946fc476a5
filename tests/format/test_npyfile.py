import io
import json
import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from dj_npy import ArrayCorruptError
from dj_npy._format import npyfile
from tests.support.arrays import DTYPES, SIMPLE, arrays, same

WIDE = np.dtype([(f"field_{n:05}", "<i4") for n in range(4000)])
"""A header beyond the 64 KiB of version 1.0."""


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of version 2.0 and 3.0 headers
        np.save(file, array, allow_pickle=False)
    return file.getvalue()


def loaded(contents: bytes) -> Any:
    return np.load(io.BytesIO(contents), max_header_size=1 << 20)


def written(array: Any) -> bytes:
    return b"".join(bytes(piece) for piece in npyfile.NpyBytes(array))


@pytest.mark.slow
@given(arrays())
@example(np.zeros(2, WIDE))
@example(np.zeros((), [("größe", "f4"), ("漢字", "i2")]))
@example(np.zeros((3, 0, 2)))
@example(np.asfortranarray(np.zeros((0, 5))))
@settings(max_examples=500, deadline=None)
def test_the_bytes_are_those_of_numpy_save(array: Any) -> None:
    found, expected = written(array), saved(array)
    assert len(found) == len(expected)
    length = npyfile.header_length(expected, "the file")
    assert found[:length] == expected[:length]
    assert same(loaded(found), loaded(expected))


@given(arrays())
@example(np.zeros(2, WIDE))
@settings(max_examples=300, deadline=None)
def test_what_numpy_saved_is_read_back(array: Any) -> None:
    contents = saved(array)
    header = npyfile.parse_header(contents, len(contents), "the file")
    assert (header.dtype, header.shape) == (array.dtype, array.shape)
    data = contents[header.offset :]
    found = np.ndarray(header.shape, header.dtype, data, order=header.order)
    assert same(found, loaded(contents))


@pytest.mark.slow
@given(DTYPES)
@settings(max_examples=500, deadline=None)
def test_a_dtype_comes_back_equal_from_a_row(dtype: np.dtype[Any]) -> None:
    assert npyfile.dtype_from_json(json.loads(json.dumps(npyfile.dtype_to_json(dtype)))) == dtype


@given(SIMPLE | npst.array_dtypes(SIMPLE, max_size=3))
@settings(max_examples=300, deadline=None)
def test_a_dtype_comes_back_equal_from_a_row_of_the_built_in_codec(dtype: np.dtype[Any]) -> None:
    assert npyfile.dtype_from_json(str(dtype)) == dtype


def test_a_dtype_of_records_comes_back_from_a_row_of_the_built_in_codec() -> None:
    dtype = np.zeros(1, [("a", "i8"), ("b", "f8")]).view(np.recarray).dtype
    assert npyfile.dtype_from_json(str(dtype)) == dtype


def test_an_array_that_is_not_contiguous_is_written_through_a_small_buffer() -> None:
    array = np.zeros((2048, 4096), order="C")[::2, ::2]  # 16 MiB within 64
    tracemalloc.start()
    try:
        for _ in npyfile.NpyBytes(array):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


GOOD = saved(np.arange(6.0).reshape(2, 3))


def with_header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    body = text.encode()
    return (
        b"\x93NUMPY"
        + bytes(version)
        + len(body).to_bytes(2 if version == (1, 0) else 4, "little")
        + body
    )


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"\x93NUM",
        b"PK\x03\x04" + bytes(200),
        b"\x93NUMPY\x04\x00" + GOOD[8:],
        b"\x93NUMPY\x00\x00" + GOOD[8:],
        GOOD[:100],
        GOOD[:-1],
        GOOD + b"\0",
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (0,)"),
        with_header("{'descr': '|O', 'fortran_order': False, 'shape': (0,)}"),
        with_header("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (0,)}"),
        with_header("{'descr': '<f8', 'fortran_order': 0, 'shape': (0,)}"),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': [0]}"),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (True,)}"),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (10**10,)}"),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,)}"),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (0,), 'more': 1}"),
        with_header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {(1,) * 65}}}"),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 2**62)}"),
        with_header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {(0, 2**62, 2**62)}}}"),
        with_header(f"{{'descr': '|S0', 'fortran_order': False, 'shape': {(10**30,)}}}"),
        with_header("{'descr': '(2,)f8', 'fortran_order': False, 'shape': (0,)}"),
        with_header("{'descr': 'no such', 'fortran_order': False, 'shape': (0,)}"),
        with_header("{'descr': [1, 2], 'fortran_order': False, 'shape': (0,)}"),
        with_header("{'descr': {'a': 1}, 'fortran_order': False, 'shape': (0,)}"),
        with_header("__import__('os').system('touch /tmp/pwned')"),
        with_header("(" * 5000 + ")" * 5000, (2, 0)),
        with_header("-" * 50000 + "1", (2, 0)),
        with_header("\x00" * 64),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(64),
    ],
)
def test_a_bad_header_is_refused(contents: bytes) -> None:
    with pytest.raises(ArrayCorruptError, match=r"^the file "):
        npyfile.parse_header(contents, len(contents), "the file")


@given(st.data())
@settings(max_examples=500, deadline=None)
def test_a_damaged_header_raises_our_error_or_tells_another_array(data: st.DataObject) -> None:
    contents = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        contents[data.draw(st.integers(0, 127))] = data.draw(st.integers(0, 255))
    try:
        header = npyfile.parse_header(bytes(contents), len(contents), "the file")
    except ArrayCorruptError:
        return
    assert header.file_size == len(contents)
    assert not header.dtype.hasobject
