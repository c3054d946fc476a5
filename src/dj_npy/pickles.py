"""
What a pickle of a reference calls, besides :class:`dj_npy.NpyRef`.

Pickles of today are read by later versions: names and arguments in this module stay as they are.
"""

from dj_npy._stores.described import store

__all__ = ["store"]
