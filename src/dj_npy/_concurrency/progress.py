"""Progress bars for operations on many arrays."""

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any


class Progress:
    """
    A progress bar in bytes and files, or nothing.

    Parameters
    ----------
    what : str
        Description of the operation.
    total : tuple of int, optional
        Numbers of files and bytes; zeros if unknown. None shows no bar.
    """

    def __init__(self, what: str, total: tuple[int, int] | None) -> None:
        self._bar: Any = None
        self._files = 0
        if total is not None:
            self._all = f"/{total[0]}" if total[0] else ""
            self._try(lambda: self._begin(what, total[1]))

    def _begin(self, what: str, nbytes: int) -> None:
        with warnings.catch_warnings():
            # tqdm warns in a notebook without widgets, and draws with characters.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm  # imported late: it checks for notebooks

        self._bar = tqdm(
            total=nbytes or None, desc=what, unit="B", unit_scale=True, unit_divisor=1024
        )

    def add(self, nbytes: int, files: int = 1) -> None:
        """Count more files, of `nbytes` bytes in total."""
        if self._bar is not None:
            self._files += files
            self._try(lambda: self._advance(nbytes))

    def _advance(self, nbytes: int) -> None:
        self._bar.set_postfix_str(f"{self._files}{self._all} files", refresh=False)
        self._bar.update(nbytes)

    def close(self) -> None:
        """Stop updating the bar."""
        if self._bar is not None:
            self._try(self._bar.close)

    def _try(self, show: Callable[[], object]) -> None:
        """Continue without a bar if it cannot be shown any more, as after a closed terminal."""
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
