"""
What a pickle of a reference calls, besides :class:`dj_npy.NpyRef`.

Pickles of today are read by later versions: names and arguments in this module stay as they are.
"""

from typing import Any

from dj_npy._stores.described import described


def store(name: str, public: tuple[tuple[str, Any], ...], withheld: tuple[str, ...]) -> Any:
    """
    Return the configuration of a store, as a pickled reference brings it.

    Parameters
    ----------
    name : str
        What the configuration calls it.
    public : tuple of (str, value)
        The settings that travel.
    withheld : tuple of str
        The names of those that do not.
    """
    return described(name, public, withheld)
