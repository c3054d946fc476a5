"""References among pandas, polars and pyarrow: as operands, and as cells of a frame."""

import copy
import io
import operator
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow
import pytest

import dj_npy

Stored = Callable[..., dj_npy.NpyRef]

# As operands

ARRAYS: dict[str, Any] = {
    "floats": np.array([1.5, 2.0, -1.0]),
    "integers": np.array([2, 0, 3]),
    "booleans": np.array([True, False, True]),
    "two axes": np.arange(9.0).reshape(3, 3),
    "one column": np.arange(3.0).reshape(3, 1),
    "one number": np.array(2.5),
    "too long": np.arange(4.0),
    "days": np.array(["2024-01-01", "2024-01-02", "2024-01-03"], "M8[ns]"),
    "seconds": np.array([1, 2, 3], "m8[s]"),
    "text": np.array(["a", "b", "c"]),
}
OPERANDS: dict[str, Any] = {
    "frame": pd.DataFrame(np.arange(9.0).reshape(3, 3) + 1),
    "frame of integers": pd.DataFrame(np.arange(9).reshape(3, 3) + 1),
    "series": pd.Series([1.0, 2.0, 3.0]),
    "index": pd.Index([1, 2, 3]),
    "masked": pd.Series([1, None, 3], dtype="Int64"),
    "arrow": pd.Series([1.0, 2.0, 3.0], dtype="float64[pyarrow]"),
    "sparse": pd.arrays.SparseArray([0, 1, 2]),
    "categories": pd.Series(["a", "b", "a"], dtype="category"),
    "strings": pd.Series(["a", "b", "c"]),
    "days": pd.Series(pd.date_range("2024", periods=3)),
    "durations": pd.Series(pd.to_timedelta([1, 2, 3], unit="us")),
    "objects": pd.Series([1, 2.5, 3], dtype=object),
    "flags": pd.Series([True, False, True]),
    "Timestamp": pd.Timestamp("2024-01-02"),
    "Timedelta": pd.Timedelta("1s"),
    "NaT": pd.NaT,
}
OPERATORS = [
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod),
    *(operator.pow, divmod, operator.eq, operator.ne, operator.lt, operator.le, operator.gt),
    *(operator.ge, operator.and_, operator.or_, operator.xor, operator.matmul),
]
IN_PLACE = [
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv),
    *(operator.imod, operator.ipow, operator.iand, operator.ior, operator.ixor),
]


def outcome(function: Callable[..., Any], *operands: Any) -> Any:
    """The type, dtypes and values of a result, or the class of what was raised."""
    try:
        result = function(*operands)
    except Exception as error:
        return type(error)
    results = result if isinstance(result, tuple) else (result,)
    return [(type(x), str(getattr(x, "dtype", "")), repr(np.asarray(x).tolist())) for x in results]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("other", OPERANDS.values(), ids=OPERANDS)
def test_operators_are_those_of_the_array(array: Any, other: Any, stored: Stored) -> None:
    ref = stored(array)
    for function in OPERATORS:
        assert outcome(function, other, ref) == outcome(function, other, array), function
        assert outcome(function, ref, other) == outcome(function, array, other), function
    for function in IN_PLACE:
        changed = outcome(function, copy.copy(other), ref)
        assert changed == outcome(function, copy.copy(other), array), function


FRAME = pd.DataFrame(np.arange(9.0).reshape(3, 3), columns=list("xyz"))
RECORDS = np.array([(1, 2.5), (3, 4.5), (5, 6.0)], [("a", "i4"), ("b", "f8")])


@pytest.mark.parametrize(
    ("array", "use"),
    [
        (RECORDS, pd.DataFrame),
        (RECORDS, lambda x: pd.DataFrame(data=x, columns=["b"])),
        (ARRAYS["two axes"], lambda x: pd.DataFrame(x, columns=list("pqr"))),
        (ARRAYS["floats"], lambda x: pd.DataFrame({"v": x})),
        (ARRAYS["two axes"], FRAME.add),
        (ARRAYS["two axes"], FRAME.eq),
        (ARRAYS["one column"], FRAME.rsub),
        (ARRAYS["two axes"], FRAME.dot),
        (ARRAYS["floats"], lambda x: FRAME.assign(v=x)),
        (ARRAYS["two axes"], lambda x: FRAME.where(FRAME > 3, x)),
        (np.array([2, 0]), lambda x: FRAME.iloc[x]),
        (np.array([2, 0]), lambda x: FRAME.loc[x]),
        (ARRAYS["two axes"], lambda x: np.hypot(FRAME, x)),
        (ARRAYS["floats"], lambda x: pd.Series(x, index=list("abc")).to_frame()),
        (ARRAYS["floats"], lambda x: FRAME.x.isin(x).to_frame()),
        (ARRAYS["days"], lambda x: pd.DatetimeIndex(x).to_frame()),
    ],
)
def test_pandas_takes_a_reference_for_its_array(array: Any, use: Any, stored: Stored) -> None:
    pd.testing.assert_frame_equal(use(stored(array)), use(array))


# As cells


def merged_on_references(table: pd.DataFrame) -> Any:
    with suppress(ValueError):  # before 3, pandas asks whether they are in order
        return table.merge(table, on="w")


def frame_of(stored: Stored, shape: Any = (10, 3)) -> pd.DataFrame:
    refs = [stored(np.zeros(shape), number) for number in range(4)]
    assert not any(ref.is_loaded for ref in pd.Series(refs))
    return pd.DataFrame({"id": [3, 1, 2, 1], "group": list("abab"), "w": refs})


def with_copies(table: pd.DataFrame) -> pd.DataFrame:
    """The same with references elsewhere in memory, of the same rows."""
    return table.assign(w=[copy.copy(ref) for ref in table.w])


UNLOADED: dict[str, Callable[[pd.DataFrame], Any]] = {
    "memory_usage": lambda t: t.memory_usage(deep=True),
    "info": lambda t: t.info(buf=io.StringIO(), memory_usage="deep"),
    "describe": lambda t: t.describe(include="all"),
    "describe one": lambda t: t.w.describe(),
    "nunique": pd.DataFrame.nunique,
    "unique": lambda t: t.w.unique(),
    "value_counts": lambda t: t.w.value_counts(),
    "groupby all": lambda t: t.groupby(list(t), sort=False).size(),
    "duplicated": pd.DataFrame.duplicated,
    "drop_duplicates": lambda t: t.drop_duplicates(["id", "w"]),
    "drop_duplicates of others": lambda t: t.drop_duplicates("id"),
    "isin": lambda t: t.isin([1, "a"]),
    "isin references": lambda t: t.w.isin([t.w[1]]),
    "replace": lambda t: t.replace(1, 5).replace("a", "c"),
    "fillna": lambda t: t.fillna(0),
    "dropna": lambda t: t.dropna(),
    "equals": lambda t: t.equals(t.copy()),
    "copy": lambda t: t.copy(deep=True),
    "pickle": lambda t: pickle.loads(pickle.dumps(t)),
    "sort_values": lambda t: t.sort_values(["id", "group"]),
    "sort by size": lambda t: t.sort_values("w", key=lambda w: w.map(lambda ref: ref.nbytes)),
    "merge": lambda t: t.merge(t[["id", "group"]].drop_duplicates(), how="outer"),
    "merge on references": merged_on_references,
    "merge where none is": lambda t: pd.DataFrame({"id": [1, 9]}).merge(t, how="left"),
    "groupby": lambda t: t.groupby("group").first(),
    "groupby count": lambda t: t.groupby("group").w.nunique(),
    "groupby references": lambda t: t.groupby("w", sort=False).size(),
    "groupby apply": lambda t: t.groupby("group").w.apply(lambda w: w.iloc[0].shape),
    "pivot": lambda t: t.pivot_table(index="id", columns="group", values="w", aggfunc="first"),
    "melt": lambda t: t.melt("id"),
    "concat": lambda t: pd.concat([t, t.assign(w=None)], ignore_index=True),
    "apply": lambda t: t.apply(lambda row: row.w.size, axis=1),
    "map": lambda t: t.id.map(dict(zip(t.id, t.w, strict=True))),
    "set one": lambda t: t.at.__setitem__((0, "w"), t.w[1]),
    "query": lambda t: t.query("id > 1"),
    "text": lambda t: (t.to_string(), t.to_html(), t.to_csv(), t._repr_html_(), repr(t.T)),
    "dicts": lambda t: t.to_dict("records"),
    "to_numpy": pd.DataFrame.to_numpy,
}


@pytest.mark.parametrize("shape", [(10, 3), (3,), (0,)], ids=str)
@pytest.mark.parametrize("use", UNLOADED.values(), ids=UNLOADED)
def test_pandas_loads_no_cell(use: Any, shape: Any, stored: Stored, opened: list[str]) -> None:
    # Whether two cells of a hash table are compared depends on where they are in memory.
    table = frame_of(stored, shape)
    tables = [with_copies(table) for _ in range(6)]
    opened.clear()
    for table in tables:
        repr(use(table))
    assert opened == []


@pytest.mark.parametrize("shape", [(10, 3), (3,), (), (1,), (0,)], ids=str)
def test_cells_are_found_by_identity(shape: Any, stored: Stored) -> None:
    refs = [stored(np.zeros(shape), number) for number in range(5)]
    for _ in range(20):
        cells = [copy.copy(ref) for ref in refs]
        column = pd.Series([*cells, *cells, None])
        assert column.nunique() == 5
        assert all(a is b for a, b in zip(column.dropna().unique(), cells, strict=True))
        assert column.value_counts().tolist() == [2] * 5
        assert len(column.drop_duplicates()) == 6
        assert column.isin(cells[:2]).tolist() == [True, True, *[False] * 3] * 2 + [False]


def test_frames_of_the_same_rows_are_equal(stored: Stored, opened: list[str]) -> None:
    table = frame_of(stored)
    again = with_copies(table)
    opened.clear()
    assert again.equals(table)
    assert again.w.equals(table.w)
    assert not again.iloc[::-1].reset_index(drop=True).w.equals(table.w)
    assert opened == []


def test_arrays_of_one_number_compare_by_value(stored: Stored) -> None:
    values = [2.0, 5.0, 1.0]
    table = pd.DataFrame({"w": [stored(np.array(value), int(value)) for value in values]})
    assert (table.w == 5).tolist() == [False, True, False]
    assert (table.w == table.w.copy()).all()
    assert table.w.replace(5, 0)[1] == 0
    assert [float(ref) for ref in table.w.sort_values()] == [1, 2, 5]


@pytest.mark.parametrize(
    "sort",
    [
        lambda table: table.sort_values("w"),
        lambda table: table.w.rank(),
        lambda table: table.groupby("w").size(),
        lambda table: table.w.astype("category"),
    ],
)
def test_references_have_no_order(sort: Any, stored: Stored, opened: list[str]) -> None:
    table = frame_of(stored)
    opened.clear()
    with pytest.raises(ValueError, match="references have no order: sort by another column"):
        sort(table)
    assert opened == []


def test_functions_of_users_get_and_compare_arrays(stored: Stored) -> None:
    table = frame_of(stored, (3,))
    first = table.w[0]
    assert table.w.map(lambda ref: (ref == first).all()).all()
    assert table.w.map(lambda ref: (ref < 1).tolist()).tolist() == [[True] * 3] * 4
    assert table.w.apply(np.mean).tolist() == [0.0] * 4
    assert table.explode("w").w.tolist() == [0.0] * 12
    assert np.array_equal(table.w.sum(), np.zeros(3))
    assert (table.w + 1).map(np.sum).tolist() == [3.0] * 4
    with pytest.raises(ValueError, match="ambiguous"):
        table.w == table.w.map(copy.copy)  # noqa: B015


def test_what_has_no_form_for_a_reference_says_so(
    stored: Stored, opened: list[str], tmp_path: Path
) -> None:
    table = frame_of(stored)
    opened.clear()
    for save, error in [
        (table.to_parquet, pyarrow.ArrowInvalid),
        (table.to_feather, pyarrow.ArrowInvalid),
    ]:
        with pytest.raises(error, match=r"(?s)NpyRef.*column w"):
            save(tmp_path / "saved")
    with suppress(OverflowError), pytest.raises(ValueError, match="unsupported"):
        table.to_json()  # pandas before 3.1: "maximum recursion level reached"
    with pytest.raises(pyarrow.ArrowInvalid, match="NpyRef"):
        pyarrow.array(table.w)
    saved = table.assign(w=[ref.path for ref in table.w])
    saved.to_parquet(tmp_path / "saved")
    assert pd.read_parquet(tmp_path / "saved").w[0] == table.w[0].path
    assert opened == []


def test_arrow_takes_the_values_of_one(stored: Stored) -> None:
    assert pyarrow.array(stored(ARRAYS["floats"])).to_pylist() == [1.5, 2.0, -1.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda refs: pl.DataFrame([{"id": n, "w": ref} for n, ref in enumerate(refs)]),
        lambda refs: pl.DataFrame({"id": range(3), "w": refs}, schema_overrides={"w": pl.Object}),
        lambda refs: pl.DataFrame({"id": range(3), "w": pd.Series(refs).to_numpy()}),
    ],
)
def test_polars_loads_no_cell(make: Any, stored: Stored, opened: list[str]) -> None:
    refs = [stored(np.zeros((10, 3)), number) for number in range(3)]
    opened.clear()
    table = make(refs)
    assert table["w"].dtype == pl.Object
    assert table.sort("id", descending=True).filter(pl.col("id") > 1)["w"][0] is refs[2]
    assert table.join(table.select("id"), on="id").unique("id", keep="first").height == 3
    assert table.unique().height == 3
    assert (
        table["w"].map_elements(lambda ref: ref.size, return_dtype=pl.Int64).to_list() == [30] * 3
    )
    assert table.to_pandas().w[1] is refs[1]
    assert pl.concat([table, table]).null_count()["w"][0] == 0
    table.describe()
    for refused in (
        lambda: table.write_parquet(io.BytesIO()),
        lambda: table.write_csv(),
        lambda: table.sort("w"),
        lambda: pl.Series(refs[0]),
        lambda: table["id"] + refs[0],
    ):
        with pytest.raises((pl.exceptions.PolarsError, TypeError), match=r"(?i)object|NpyRef"):
            refused()
    assert opened == []
