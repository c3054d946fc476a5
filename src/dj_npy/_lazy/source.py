"""What a lazy array needs of a stored one."""

from typing import Any

import numpy as np

from dj_npy._format.npyfile import AnyArray


class Source:
    """The part of :class:`dj_npy.NpyRef` that Dask and xarray read through."""

    __slots__ = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
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
        """Read what `selection` selects, and keep nothing."""
        raise NotImplementedError

    def __getitem__(self, index: Any) -> Any:
        """Read what an index selects, or take it from the loaded array."""
        raise NotImplementedError

    def __dask_tokenize__(self) -> Any:
        raise NotImplementedError

    def _in_fortran_order(self) -> bool:
        """Whether the first axis varies fastest in the file, by what the row says."""
        raise NotImplementedError
