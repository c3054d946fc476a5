"""
Functions that pickles of references call, besides :class:`dj_npy.NpyRef`.

Later versions read today's pickles, so names and arguments in this module never change.
"""

from dj_npy._stores.described import store

__all__ = ["store"]
