"""
Arguments passed past DataJoint to what it calls, as it forwards none of ours.

Each context variable with its reason, and the only way to set one. Two are in rooms below, which
look at them: `_array.arraylike.as_scalar` and `_concurrency.threads.current_token`.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar, copy_context
from typing import Any, NamedTuple, Protocol, TypeVar

from dj_npy._stores import Store
from dj_npy._stores.identity import Witness

T = TypeVar("T")


class Encoding(Protocol):
    """A statement whose rows are being encoded, with arrays perhaps uploaded in advance."""

    @property
    def table_name(self) -> str:
        """The full name of the table, quoted."""
        ...

    def stored_key(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """Return the key of a row as the database will return it."""
        ...

    def encoded(self, attribute: str) -> dict[str, Any] | None:
        """Return the description of an attribute's array if its upload has started, else None."""
        ...

    def note(self, store: Store, path: str, attribute: str) -> None:
        """Record a file that was created."""
        ...

    def wrote(self, nbytes: int) -> None:
        """Record an array that was not uploaded in advance."""
        ...

    def note_query(self, connection: Any, query: str, sent: Any) -> None:
        """Record a query that is about to be sent."""
        ...


class Bulk(NamedTuple):
    """How an insert uploads its arrays in parallel."""

    max_workers: int | None
    """Most threads; None: as many as suit the store."""
    wrote: Callable[[int], object]
    """Called with the size of each array that was written."""


row_key: ContextVar[dict[str, Any] | None] = ContextVar("row_key", default=None)
"""Primary key of the row being written: `Table.update1` does not pass it to the codec."""
current: ContextVar[Encoding | None] = ContextVar("current", default=None)
"""
The statement whose rows are being encoded in this thread.

`Table.insert` calls the codec once per value; this is how the codec reports files.
"""
bulk: ContextVar[Bulk | None] = ContextVar("bulk", default=None)
"""While set, an insert uploads arrays in parallel: `Table.insert` refuses unknown options."""
witness: ContextVar[Witness | None] = ContextVar("witness", default=None)
"""Knows what rows say about the store of a write: only the table can tell."""
json_as_text: ContextVar[bool] = ContextVar("json_as_text", default=False)
"""
While true, psycopg2 does not parse the JSON in the rows of a new cursor.

The cursor is made by DataJoint, within a query that a fetch sends.
"""


def call_with(values: dict[ContextVar[Any], Any], call: Callable[[], T]) -> T:
    """
    Call a function with some context variables set.

    The call has its own context, so no exception, whenever it comes, can leave one set.
    """

    def set_and_call() -> T:
        for variable, value in values.items():
            variable.set(value)
        return call()

    return copy_context().run(set_and_call)
