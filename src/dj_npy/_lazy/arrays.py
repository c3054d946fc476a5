"""Methods of a reference that return lazy arrays of other libraries."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from dj_npy._lazy.dask import array_of
from dj_npy._lazy.source import Source
from dj_npy._lazy.xarray import data_array


class LazyArrays(Source):
    """Methods of :class:`NpyRef` that need Dask or xarray."""

    __slots__ = ()

    def to_dask(self, chunks: Any = "auto") -> Any:
        """
        Return the array as a Dask array. No I/O; each task reads its own ranges when it runs.

        Parameters
        ----------
        chunks
            ``"auto"``: consecutive parts of the file, along its first axis (its last one in
            Fortran order), up to Dask's ``array.chunk-size`` (128 MiB). A size such as
            ``"64 MiB"``: the same, up to that size. Otherwise any `chunks` that Dask accepts.

        Returns
        -------
        dask.array.Array
            Named by store, path and checksum, so a row has the same name in every process.

        Raises
        ------
        ArrayInvalidError
            If `chunks` do not fit.
        StoreError
            If Dask is not installed.

        Examples
        --------
        >>> ref.to_dask("64 kiB").chunks
        ((256, 256, 256, 232), (32,))
        >>> ref.to_dask().mean(axis=0).compute().shape
        (32,)
        """
        return array_of(self, chunks)

    def to_xarray(
        self,
        dims: Sequence[Hashable] | None = None,
        coords: Mapping[Any, Any] | None = None,
        *,
        chunks: Any = None,
    ) -> Any:
        """
        Return the array as a lazy `xarray.DataArray`, whose data are read on first use. No I/O.

        Parameters
        ----------
        dims : sequence of str, optional
            Names of the axes. Default ``dim_0``, ``dim_1`` ...
        coords : mapping, optional
            Coordinates, as for `xarray.DataArray`.
        chunks
            None: without Dask; selections are read as by ``ref[...]``. Otherwise the array is
            backed by :meth:`to_dask` with these chunks.

        Returns
        -------
        xarray.DataArray
            It pickles like the reference.

        Raises
        ------
        ArrayInvalidError
            If `dims` or `chunks` do not fit.
        StoreError
            If xarray, or Dask for `chunks`, is not installed.

        Examples
        --------
        >>> waveform = ref.to_xarray(("time", "channel"), {"time": np.arange(1000) / 30_000})
        >>> waveform.sel(time=slice(0.01, 0.02)).mean("time").shape
        (32,)
        """
        return data_array(self, dims, coords, chunks)
