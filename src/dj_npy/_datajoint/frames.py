"""Patches of pandas, which DataJoint imports and returns."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dj_npy._array.arraylike import ArrayLike

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
    Methods that treat an ndarray specially take any other array for a list of its rows.

    So one of records becomes a column of tuples, and `frame.add(ref)` of two axes fails; and
    `frame += ref` calls `frame.__add__`, which leaves the answer to the reference, for the result.
    """

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        args = tuple(np.asarray(x) if isinstance(x, ArrayLike) else x for x in args)
        kwargs = {k: np.asarray(x) if isinstance(x, ArrayLike) else x for k, x in kwargs.items()}
        return original(self, *args, **kwargs)

    return method


PLACES: dict[str, Callable[[Method], Method]] = {
    "pandas.io.formats.printing:is_sequence": no_sequence,
    "pandas.core.frame:DataFrame.__init__": given_the_data,
    "pandas.core.frame:DataFrame._align_for_op": given_the_data,
    "pandas.core.generic:NDFrame._inplace_method": given_the_data,
}
"""Methods, and the decorator for each; one that a version of pandas lacks is left out."""
