"""Lazy `xarray.DataArray` of references. xarray is imported on first use."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import datajoint as dj

from dj_npy._errors import ArrayInvalidError, StoreError
from dj_npy._lazy.coordinates import coordinate
from dj_npy._lazy.dask import array_of, to_dask
from dj_npy._lazy.source import Source
from dj_npy._text import kind_of

KEY = "key"
"""The axis of a query whose primary key has several attributes."""


def to_xarray(
    query: Any,
    attribute: str,
    *others: str,
    dims: Sequence[Hashable] | None = None,
    coords: Mapping[Any, Any] | None = None,
    chunks: Any = "auto",
) -> Any:
    """
    Return the arrays of a query as one lazy `xarray.DataArray` along its primary key.

    The rows are fetched, in the order of the key; nothing is read from the store.

    Parameters
    ----------
    query : datajoint query
        A table, or a restriction of one.
    attribute : str
        Its attribute of type ``<npy@>``. All arrays must have the same shape and dtype.
    *others : str
        Other attributes of the query, which become coordinates along the key.
    dims : sequence of str, optional
        Names of the arrays' own axes. Default ``dim_0``, ``dim_1`` ...
    coords : mapping, optional
        Coordinates along them, as for `xarray.DataArray`.
    chunks
        As for :func:`dj_npy.to_dask`.

    Returns
    -------
    xarray.DataArray
        Backed by Dask and named after the attribute. The first axis has an entry for each row.
        It is named after the attribute of the primary key, whose values are its coordinate. If
        the key has several attributes, the axis is named ``key``, and they are the levels of its
        multi-index: select by name with ``sel``, make an axis of each with ``unstack("key")``, or
        plain coordinates with ``reset_index("key")``, which ``to_netcdf`` and ``to_zarr`` need.

        In a coordinate, dates are ``datetime64[ns]``, in UTC if they have a time zone; times of
        day ``timedelta64[ns]``; either in microseconds if one does not fit into nanoseconds.
        Decimals are float64, UUIDs str. NULL is NaT, NaN (integers and booleans become float64
        then), or None.

    Raises
    ------
    ArrayInvalidError
        If `query` is no query or has no such attribute or no rows, an array is missing (NULL),
        shapes or dtypes do not match, or an attribute cannot be a coordinate.
    StoreError
        If xarray or Dask is not installed.

    Examples
    --------
    >>> waveforms = dj_npy.to_xarray(Recording, "waveform", dims=("time", "channel"))
    >>> waveforms.dims
    ('recording_id', 'time', 'channel')
    >>> waveforms.sel(recording_id=1, channel=slice(0, 4)).mean("time").shape
    (4,)
    """
    xarray = _import_xarray()
    if isinstance(query, type) and issubclass(query, dj.expression.QueryExpression):
        query = query()
    if not isinstance(query, dj.expression.QueryExpression):
        right = "ref.to_xarray()" if isinstance(query, Source) else "dj_npy.to_dask(refs)"
        raise ArrayInvalidError(
            f"expected a table or a restriction of one, whose key is known, not {kind_of(query)}: "
            f"for references without their key, use {right}"
        )
    key = query.primary_key
    heading = query.heading
    for name in (attribute, *others):
        if name not in heading.names:
            raise ArrayInvalidError(
                f"the query has no attribute {name!r}; it has {', '.join(heading.names)}"
            )
    for name in others:
        if heading[name].codec is not None:
            kind = f"<{heading[name].codec.name}>"
            raise ArrayInvalidError(f"attribute {name!r} cannot be a coordinate: {kind}")
    rows = query.proj(attribute, *others).to_dicts(order_by="KEY")
    array = to_dask((row[attribute] for row in rows), chunks=chunks)
    values = {
        name: coordinate([row[name] for row in rows], heading[name])
        for name in dict.fromkeys((*key, *others))
    }
    own_dims = _dims(dims, array.ndim - 1)
    if len(key) == 1:
        key_dim: Hashable = key[0]
        index = {key_dim: values[key[0]]}
    else:
        import pandas as pd

        key_dim = KEY
        levels = pd.MultiIndex.from_arrays([values[name] for name in key], names=key)
        index = xarray.Coordinates.from_pandas_multiindex(levels, key_dim)
    result = xarray.DataArray(array, dims=(key_dim, *own_dims), coords=index, name=attribute)
    along = {name: (key_dim, values[name]) for name in others if name not in key}
    return result.assign_coords({**along, **(coords or {})})


def data_array(
    ref: Source,
    dims: Sequence[Hashable] | None,
    coords: Mapping[Any, Any] | None,
    chunks: Any,
) -> Any:
    """Return one reference as a `DataArray`; see :meth:`NpyRef.to_xarray`."""
    xarray = _import_xarray()
    if chunks is None:
        from dj_npy._lazy.xarraybackend import lazily_indexed

        data = lazily_indexed(ref)
    else:
        data = array_of(ref, chunks)
    result = xarray.DataArray(data, dims=_dims(dims, ref.ndim), coords=coords)
    return result.rename(None)  # drop the name of the Dask array


def _dims(dims: Sequence[Hashable] | None, ndim: int) -> Sequence[Hashable]:
    if dims is None:
        return [f"dim_{number}" for number in range(ndim)]
    if isinstance(dims, str) or not isinstance(dims, Sequence) or len(dims) != ndim:
        raise ArrayInvalidError(f"dims must name the {ndim} axes of the array, not {dims!r}")
    return dims


def _import_xarray() -> Any:
    try:
        import xarray
    except ImportError as error:
        raise StoreError(
            f"DataArrays need the package {error.name!r}: pip install 'dj-npy[xarray]'"
        ) from error
    return xarray
