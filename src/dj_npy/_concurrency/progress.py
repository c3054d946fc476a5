"""How far many arrays have come, for whoever looks on."""

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any


class Progress:
    """
    A bar in bytes and files, or none.

    Parameters
    ----------
    what : str
        What is being done.
    total : tuple of int, optional
        How many files and bytes it will be; zeros if that is not known. None for no bar.
    """

    def __init__(self, what: str, total: tuple[int, int] | None) -> None:
        self._bar: Any = None
        self._files = 0
        if total is not None:
            self._all = f"/{total[0]}" if total[0] else ""
            self._try(lambda: self._begin(what, total[1]))

    def _begin(self, what: str, nbytes: int) -> None:
        with warnings.catch_warnings():
            # In a notebook without widgets, it says so, and draws with characters.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm  # as late as this: it looks for notebooks

        self._bar = tqdm(
            total=nbytes or None, desc=what, unit="B", unit_scale=True, unit_divisor=1024
        )

    def add(self, nbytes: int) -> None:
        """Count one more file."""
        if self._bar is not None:
            self._files += 1
            self._try(lambda: self._advance(nbytes))

    def _advance(self, nbytes: int) -> None:
        self._bar.set_postfix_str(f"{self._files}{self._all} files", refresh=False)
        self._bar.update(nbytes)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._try(self._bar.close)

    def _try(self, show: Callable[[], object]) -> None:
        """Go on without a bar if there is nowhere to show it any more: a closed terminal."""
        try:
            show()
        except Exception:
            self._bar = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
