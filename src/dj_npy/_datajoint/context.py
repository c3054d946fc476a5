"""Context variables, for what DataJoint calls and hands no arguments of ours to."""

from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")


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
