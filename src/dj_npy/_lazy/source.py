"""The interface of a reference that lazy arrays use."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import datajoint as dj
import numpy as np

from dj_npy._errors import ArrayInvalidError
from dj_npy._format.npyfile import AnyArray
from dj_npy._text import kind_of


class Source:
    """
    Interface of :class:`dj_npy.NpyRef` through which Dask and xarray read.

    Declared for type checkers only: here nothing stands in the way of what `NpyRef` defines.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def shape(self) -> tuple[int, ...]:
            """Length of each axis."""
            raise NotImplementedError

        @property
        def ndim(self) -> int:
            """Number of axes."""
            raise NotImplementedError

        @property
        def dtype(self) -> np.dtype[Any]:
            """Data type of the elements."""
            raise NotImplementedError

        @property
        def path(self) -> str:
            """Path of the file in its store."""
            raise NotImplementedError

        def read(self, selection: Any = ..., *, out: AnyArray | None = None) -> AnyArray:
            """Read a selection without keeping it in memory."""
            raise NotImplementedError

        def __getitem__(self, index: Any) -> Any:
            """Read a selection, or take it from the loaded array."""
            raise NotImplementedError

        def __dask_tokenize__(self) -> Any:
            raise NotImplementedError

        def _readers(self) -> int:
            """Return how many threads should read arrays of its store."""
            raise NotImplementedError

        def _in_fortran_order(self) -> bool:
            """Return whether the row says that the file is in Fortran order."""
            raise NotImplementedError


def check_many(call: str, given: Any, one: str, *, rows: bool) -> None:
    """
    Reject what is not many references, before it is iterated, which might read an array.

    Parameters
    ----------
    call : str
        The function that was called.
    given
        What it was given for references.
    one : str
        The right call for a single reference `ref`.
    rows : bool
        Whether it takes rows, too, and so a query.
    """
    is_query = isinstance(given, dj.expression.QueryExpression | type)
    if isinstance(given, dj.NpyRef):
        right = one
    elif isinstance(given, Mapping | np.void):
        right = one.replace("ref.", 'row["waveform"].')
    elif type(given).__name__ == "DataFrame":
        right = f'{call}(df["waveform"])'
    elif hasattr(given, "__array_function__") and not isinstance(given, np.ndarray):
        right = "np.asarray(view)"  # such as ref.T, or an array of Dask's
    elif not _may_be_many(given) or (is_query and not rows):
        right = f'{call}(query.to_arrays("waveform"))'
    else:
        return
    raise ArrayInvalidError(f"{call} takes many references, not {kind_of(given)}: use {right}")


def _may_be_many(given: Any) -> bool:
    """Whether a value is an iterable, and no array of numbers or text."""
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        return False
    if isinstance(given, np.ndarray) and not given.size:
        return True  # as of no rows at all
    dtype = getattr(given, "dtype", np.dtype(object))
    return getattr(dtype, "hasobject", False) or str(dtype) == "Object"  # in polars
