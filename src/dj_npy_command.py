"""
Where the command ``dj-npy`` begins: outside the package, as importing that takes a second or two.

Ctrl-C is silent in that time, too, and what DataJoint has to say while it is imported is told
in the command's own words.
"""

import sys
import warnings

WRONG, INTERRUPTED = 1, 130


def main() -> int:
    """Run the command; return its exit code."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", "Failed to load config")
        warnings.showwarning = _show  # type: ignore[assignment]
    try:
        try:
            from dj_npy._cli.main import main as run
        except ValueError as error:  # a variable of DataJoint's, or of ours
            print(f"dj-npy: the configuration is not valid: {_in_short(error)}", file=sys.stderr)
            return WRONG
        return run()
    except KeyboardInterrupt:
        return INTERRUPTED


def _in_short(error: ValueError) -> str:
    """Say which settings, and what they should be; not what they are."""
    if hasattr(error, "errors"):  # pydantic's
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    return " ".join(str(error).split())


def _show(message: Warning | str, *_: object) -> None:
    print(f"dj-npy: warning: {' '.join(str(message).split())}", file=sys.stderr)
