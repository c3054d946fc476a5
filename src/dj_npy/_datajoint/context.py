"""
What is handed to a codec past DataJoint, which calls it and passes no arguments of ours on.

Every context variable of this room, each with its reason, and the one way to set them.
"""

from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any, NamedTuple, Protocol, TypeVar

from dj_npy._stores import Store
from dj_npy._stores.identity import Witness

T = TypeVar("T")


class Encoding(Protocol):
    """A statement whose rows are being encoded, and whose arrays may have been begun before."""

    @property
    def table_name(self) -> str:
        """The full name of the table, quoted."""
        ...

    def encoded(self, attribute: str) -> dict[str, Any] | None:
        """Return what describes the array of an attribute, if it is written already."""
        ...

    def note(self, store: Store, path: str, attribute: str) -> None:
        """Take note of a file that has been created."""
        ...

    def wrote(self, nbytes: int) -> None:
        """Take note of an array that was not begun before."""
        ...

    def sends(self, connection: Any, query: str, sent: Any) -> None:
        """Take note of a query that is about to be sent."""
        ...


class Bulk(NamedTuple):
    """How the rows of an insert are to be uploaded side by side."""

    max_workers: int
    wrote: Callable[[int], object]
    """Called with the bytes of each array that has been written."""


row_key: ContextVar[dict[str, Any] | None] = ContextVar("row_key", default=None)
"""Primary key of the row being written: `Table.update1` does not pass it to the codec."""
current: ContextVar[Encoding | None] = ContextVar("current", default=None)
"""
The statement whose rows are being encoded in this thread.

`Table.insert` calls the codec a value at a time, which is how the codec tells it of files.
"""
bulk: ContextVar[Bulk | None] = ContextVar("bulk", default=None)
"""While set, an insert uploads its arrays side by side: `Table.insert` refuses unknown options."""
witness: ContextVar[Witness | None] = ContextVar("witness", default=None)
"""Whom to ask what rows say of a store that is being written to: only the table knows them."""


def call_with(values: dict[ContextVar[Any], Any], call: Callable[[], T]) -> T:
    """
    Call while context variables have these values.

    That is in a context of its own, so no exception can leave one set, wherever it bursts in.
    """

    def within() -> T:
        for variable, value in values.items():
            variable.set(value)
        return call()

    return copy_context().run(within)
