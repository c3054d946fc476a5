"""How references compare as cells of a frame of pandas or polars."""

import operator
import sys
from collections.abc import Callable
from typing import Any

_OPERATORS = "pandas.core.ops."
"""What `frame == other` runs in: whoever writes that compares data."""
_EQUALS = "pandas.core.dtypes.missing"
"""What `frame.equals(other)` runs in."""


def compared_as_cells(function: Callable[..., Any], ref: Any, other: Any) -> Any:
    """
    Compare a reference as frames do to find or sort cells, without its data; else return None.

    pandas wants one truth value, which an array has none of. Its hash tables (`nunique`,
    `drop_duplicates`, `merge` ...) compare cells whose hashes merely share a bucket, so here two
    references are equal if they are one object, as for `hash`. For `equals`, they are equal if
    they refer to the same row. They have no order, which raises a `ValueError`: at a `TypeError`,
    pandas tries something else, and loads them. Arrays of one element compare by value with
    anything else than a reference, and for their order.
    """
    caller = sys._getframe(2).f_globals.get("__name__", "")
    if not caller.startswith(("pandas.", "polars.")) or caller.startswith(_OPERATORS):
        return None
    equality = function is operator.eq or function is operator.ne
    two_references = type(other) is type(ref)
    if ref.size == 1 and not (equality and two_references):
        return None
    if not equality:
        raise ValueError(
            "references have no order: sort by another column, or by "
            "`key=lambda refs: refs.map(...)`, or do not sort (`sort=False`)"
        )
    is_same = other is ref
    if caller == _EQUALS and two_references and hasattr(ref, "__dask_tokenize__"):
        is_same = other.__dask_tokenize__() == ref.__dask_tokenize__()
    return is_same is (function is operator.eq)
