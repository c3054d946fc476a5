"""
Where the command ``dj-npy`` begins: outside the package, as importing that takes a second or two.

Ctrl-C is silent in that time, too, and what DataJoint has to say while it is imported is told
in the command's own words.
"""

import sys
import warnings

INTERRUPTED = 130


def main() -> int:
    """Run the command; return its exit code."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", "Failed to load config")
        warnings.showwarning = _show  # type: ignore[assignment]
    try:
        from dj_npy._cli import main as run

        return run()
    except KeyboardInterrupt:
        return INTERRUPTED


def _show(message: Warning | str, *_: object) -> None:
    print(f"dj-npy: warning: {' '.join(str(message).split())}", file=sys.stderr)
