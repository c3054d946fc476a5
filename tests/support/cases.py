"""Cases of one test, which share what is costly to prepare."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def case(name: object) -> Iterator[None]:
    """What fails in here says which case it was."""
    try:
        yield
    except BaseException as error:  # what pytest raises is no `Exception`
        error.add_note(f"in the case {name!r}")
        raise
