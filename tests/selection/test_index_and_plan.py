"""From an index to bytes and back, without I/O; NumPy is the oracle."""

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dj_npy._format.npyfile import Header, bytes_view
from dj_npy._selection.index import Selection, select
from dj_npy._selection.parts import Limits, Part, boxes
from dj_npy._selection.plan import Plan
from tests.support.indexes import as_numpy, outcome, pairs

OFFSET = 128


def read(plan: Plan, out: Any, file: bytes) -> list[tuple[int, int]]:
    """Do what a store does, and return the runs that were asked for."""
    runs: list[tuple[int, int]] = []
    for part in plan.parts(out):
        asked = list(part.runs or [(part.start, part.nbytes)])
        assert sum(nbytes for _, nbytes in asked) == part.nbytes > 0
        part.put(memoryview(b"".join(file[start : start + nbytes] for start, nbytes in asked)))
        runs += asked
    return runs


def header_of(array: Any) -> Header:
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    return Header(array.dtype, array.shape, fortran, OFFSET)


def covered(array: Any, index: Any, header: Header, gap: int) -> int:
    """Bytes from first to last of all runs that are no more than `gap` apart."""
    itemsize = array.dtype.itemsize
    numbers = np.arange(array.size).reshape(array.shape, order=header.order)
    at = np.unique(numbers[index]) * itemsize
    far = np.flatnonzero(np.diff(at) - itemsize > gap)
    first, last = at[np.append(0, far + 1)], at[np.append(far, len(at) - 1)]
    return int((last - first + itemsize).sum())


@pytest.mark.slow
@settings(max_examples=3000)
@given(
    pairs(),
    st.builds(
        Limits,
        gap=st.sampled_from([0, 1, 8, 40, 1000]),
        part=st.sampled_from([1, 8, 30, 100, 10_000]),
        runs=st.sampled_from([1, 1, 2, 7, 1000]),
    ),
)
def test_what_is_selected_is_what_numpy_selects(pair: Any, limits: Limits) -> None:
    array, index = pair
    expected = outcome(index, array)
    if isinstance(expected, type):
        with pytest.raises(expected):
            select(index, array.shape, array.dtype)
        return
    selection = select(index, array.shape, array.dtype)
    header = header_of(array)
    out = np.zeros(selection.shape, selection.dtype, header.order)
    if selection.nbytes:
        file = bytes(OFFSET) + bytes(bytes_view(array))
        runs = read(Plan(selection, header, limits), out, file)
        # In the file's order, without overlap, within the data, and no more than need be.
        ends = [OFFSET, *(start + nbytes for start, nbytes in runs)]
        assert all(end <= start for end, (start, _) in zip(ends, runs, strict=False))
        assert ends[-1] <= len(file)
        assert all(nbytes <= max(limits.part, array.itemsize) for _, nbytes in runs)
        assert sum(nbytes for _, nbytes in runs) <= covered(array, index, header, limits.gap)
    assert as_numpy(out[()] if selection.is_scalar else out, expected)


RECORDS = np.dtype([("x", "f8"), ("y", "i4", (2, 3)), (("a title", "z"), "S3")])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), (4,), (3, 2), (0, 2)])
@pytest.mark.parametrize("fields", ["x", "y", "z", "a title", ["x"], ["z", "x"], ["y", "z"]])
def test_fields(fields: Any, shape: tuple[int, ...], order: Any) -> None:
    nbytes = math.prod(shape) * RECORDS.itemsize
    data = bytearray(np.random.default_rng(0).integers(0, 256, nbytes, np.uint8).tobytes())
    array: Any = np.ndarray(shape, RECORDS, data or bytearray(1), order=order)
    selection = select(fields, shape, RECORDS)
    header = Header(RECORDS, shape, order == "F", OFFSET)
    out = np.zeros(selection.shape, selection.dtype)
    if selection.nbytes:
        read(Plan(selection, header, Limits(0, 7)), out, bytes(OFFSET) + bytes(data))
    assert as_numpy(out, array[fields])


@pytest.mark.parametrize("fields", ["no", ["x", "no"], ["x", "x"], ["x", 1], ("x",), ("x", 0)])
def test_fields_that_are_not_there(fields: Any) -> None:
    expected = outcome(fields, np.zeros(3, RECORDS))
    assert isinstance(expected, type)
    with pytest.raises(expected):
        select(fields, (3,), RECORDS)
    with pytest.raises(outcome(fields, np.zeros(3))):
        select(fields, (3,), np.dtype("f8"))


def planned(index: Any, shape: tuple[int, ...], limits: Limits, dtype: str = "i1") -> list[Part]:
    selection = select(index, shape, np.dtype(dtype))
    plan = Plan(selection, Header(np.dtype(dtype), shape, False, OFFSET), limits)
    return list(plan.parts(np.zeros(selection.shape, dtype)))


def test_an_array_of_10_to_the_13_elements_costs_what_is_selected_of_it() -> None:
    limits = Limits(128 << 10, 8 << 20)
    huge = (10**10, 10**3)
    tracemalloc.start()
    for index, parts in (
        (np.s_[-1, -1], 1),
        (np.s_[5_000_000_000:5_000_000_100], 1),
        (np.s_[:: 10**9], 10),
        (np.s_[[0, -1, 5 * 10**9]], 3),
        (np.s_[[0, -1], [3, 4]], 2),
        (np.s_[:: -(10**9), 7:9], 10),
        (np.s_[10**9 : 10**9 + 3, ..., None, ::500], 1),
    ):
        assert len(planned(index, huge, limits)) == parts
    (part,) = planned(-1, (10**13,), limits)
    assert (part.start, part.nbytes) == (OFFSET + 10**13 - 1, 1)
    for bad in (10**13, -(10**13) - 1, [10**13], (0, 0), 1.5):
        with pytest.raises(IndexError):
            select(bad, (10**13,), np.dtype("f4"))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_many_rows_of_few_are_judged_without_the_rows() -> None:
    """The whole result is never built just to ask NumPy."""
    tracemalloc.start()
    select(([1, 2], slice(None)), (10, 10**9), np.dtype("f8"))
    select((..., [1, 2]), (10**5, 10**5, 5), np.dtype("f8"))
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def spans(parts: list[Part]) -> list[tuple[int, int]]:
    return [(part.start - OFFSET, part.nbytes) for part in parts]


def test_runs_are_merged_across_small_gaps_only() -> None:
    rows = [0, 2, 5]
    assert spans(planned(rows, (10, 100), Limits(0, 1000))) == [(0, 100), (200, 100), (500, 100)]
    assert spans(planned(rows, (10, 100), Limits(100, 1000))) == [(0, 300), (500, 100)]
    assert spans(planned(rows, (10, 100), Limits(200, 1000))) == [(0, 600)]
    # The last of one row and the first of the next: neighbours, though of different levels.
    edges = np.s_[:3, ::99]
    assert spans(planned(edges, (10, 100), Limits(10, 1000))) == [
        (0, 1), (99, 2), (199, 2), (299, 1)
    ]  # fmt: skip


def test_parts_are_cut() -> None:
    assert spans(planned(np.s_[:], (25,), Limits(0, 10))) == [(0, 10), (10, 10), (20, 5)]
    assert spans(planned(np.s_[:], (2, 15), Limits(0, 10))) == [
        (0, 10), (10, 5), (15, 10), (25, 5)
    ]  # fmt: skip
    assert spans(planned([0, 1, 2, 3], (9, 4), Limits(0, 10))) == [(0, 8), (8, 8)]


def test_an_element_is_never_cut() -> None:
    assert spans(planned(np.s_[:2], (5,), Limits(0, 3), "f8")) == [(0, 8), (8, 8)]


def test_what_lies_in_the_file_as_in_the_result_goes_there_straight() -> None:
    def is_direct(index: Any, order: Any, out: Any = None) -> bool:
        selection = select(index, (20, 6, 4), np.dtype("i2"))
        header = Header(np.dtype("i2"), (20, 6, 4), order == "F", OFFSET)
        out = np.empty(selection.shape, "i2", order) if out is None else out
        parts = list(Plan(selection, header, Limits(0, 1 << 20)).parts(out))
        return all(part.targets and part.take is None for part in parts)

    assert is_direct(np.s_[5:9], "C")
    assert is_direct(np.s_[3, 2:4], "C")
    assert is_direct(np.s_[..., 1:3], "F")
    assert is_direct(np.s_[:, :, None, :], "C")
    assert not is_direct(np.s_[::-1], "C")
    assert not is_direct(np.s_[5:9], "C", np.empty((4, 6, 4), "i2", "F"))


def test_a_row_that_is_asked_for_often_is_read_once() -> None:
    assert spans(planned([3] * 1000 + [1], (10, 50), Limits(0, 1000))) == [(50, 50), (150, 50)]
    far = Limits(0, 1000)
    assert spans(planned(([3, 3], np.s_[::49]), (10, 50), far)) == [(150, 1), (199, 1)]


def test_several_runs_are_put_together_where_that_is_wanted() -> None:
    parts = planned(np.s_[::2], (10, 10), Limits(0, 1000, runs=3))
    assert [part.runs for part in parts] == [
        [(OFFSET, 10), (OFFSET + 20, 10), (OFFSET + 40, 10)],
        [(OFFSET + 60, 10), (OFFSET + 80, 10)],
    ]
    parts = planned([9, 0, 4], (10, 10), Limits(0, 25, runs=3))
    assert [part.nbytes for part in parts] == [20, 10]


@pytest.mark.slow
def test_the_runs_of_many_points_are_few_objects() -> None:
    tracemalloc.start()
    points = np.random.default_rng(0).integers(0, 10**7, 20_000)
    tracemalloc.clear_traces()
    selection = select(points, (10**7, 8), np.dtype("f4"))
    plan = Plan(selection, Header(np.dtype("f4"), (10**7, 8), False, OFFSET), Limits(0, 1 << 20))
    for _ in plan.parts(np.empty(selection.shape, "f4")):
        pass
    assert tracemalloc.get_traced_memory()[1] < 20 * points.nbytes
    tracemalloc.stop()


def test_a_selection_is_what_it_says() -> None:
    selection = select(np.s_[2:8:3, -1, None], (10, 5, 4), np.dtype("f8"))
    assert isinstance(selection, Selection)
    assert selection.ranges == {0: range(2, 8, 3), 1: range(4, 5), 2: range(4)}
    assert selection.shape == (2, 1, 4)
    assert selection.nbytes == 64


def test_consecutive_elements_are_few_boxes() -> None:
    for shape in ((7,), (2, 9), (3, 1, 4), (2, 3, 2, 5), (1, 1)):
        array = np.arange(np.prod(shape)).reshape(shape)
        for start in range(array.size):
            for stop in range(start, array.size + 1):
                found = list(boxes(range(start, stop), shape))
                elements = [n for box in found for n in array[box].ravel()]
                assert elements == list(range(start, stop))
                assert len(found) < 2 * array.ndim
