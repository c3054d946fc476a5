"""Stored arrays as the lazy arrays of Dask and xarray. Knows of a reference what `source` says."""
