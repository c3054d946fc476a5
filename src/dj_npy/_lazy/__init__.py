"""References as lazy arrays of Dask and xarray. Uses only the interface in `source`."""
