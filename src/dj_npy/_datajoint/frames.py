"""Patches of pandas, which DataJoint imports and returns."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dj_npy._array.arraylike import ArrayLike, as_scalar
from dj_npy._datajoint.context import call_with

Method = Callable[..., Any]


def no_sequence(original: Method) -> Method:
    """
    Pandas before 3.1 prints a cell with a length by iterating it, which loads the array.

    `is_sequence`, which decides that, has no other use there; later versions lack it.
    """

    def is_sequence(thing: Any, *args: Any, **kwargs: Any) -> Any:
        return not isinstance(thing, ArrayLike) and original(thing, *args, **kwargs)

    return is_sequence


def given_the_data(original: Method) -> Method:
    """
    Functions that treat an ndarray specially take any other array for a list of its rows.

    So records become a column of tuples, and `frame.add(ref)` of two axes fails. `frame += ref`
    takes for the result what `frame.__add__` answers, which leaves the operation to the reference.
    """

    def function(*args: Any, **kwargs: Any) -> Any:
        given = map(_data, args)
        return original(*given, **{name: _data(value) for name, value in kwargs.items()})

    return function


def cells_as_they_are(original: Method) -> Method:
    """Pandas before 3 puts a list of references into an array of objects by way of their data."""

    def construct_1d_object_array_from_listlike(*args: Any, **kwargs: Any) -> Any:
        return call_with({as_scalar: True}, lambda: original(*args, **kwargs))

    return construct_1d_object_array_from_listlike


def _data(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, ArrayLike) else value


_MAKE_CELLS = "construct_1d_object_array_from_listlike"
PLACES: dict[str, Callable[[Method], Method]] = {
    "pandas.io.formats.printing:is_sequence": no_sequence,
    f"pandas.core.algorithms:{_MAKE_CELLS}": cells_as_they_are,
    f"pandas.core.construction:{_MAKE_CELLS}": cells_as_they_are,
    f"pandas.core.dtypes.cast:{_MAKE_CELLS}": cells_as_they_are,
    "pandas.core.frame:DataFrame.__init__": given_the_data,
    "pandas.core.frame:DataFrame._align_for_op": given_the_data,
    "pandas.core.generic:NDFrame._inplace_method": given_the_data,
}
"""Functions, and the decorator for each; one that a version of pandas lacks is left out."""
