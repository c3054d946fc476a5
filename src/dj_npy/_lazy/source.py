"""The interface of a reference that lazy arrays use."""

from typing import TYPE_CHECKING, Any

import numpy as np

from dj_npy._format.npyfile import AnyArray


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

        def _in_fortran_order(self) -> bool:
            """Return whether the row says that the file is in Fortran order."""
            raise NotImplementedError
