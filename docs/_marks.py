"""A hook of mkdocs: why a code block is not run by the tests is shown above it."""

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """See mkdocs."""
    return re.sub(
        r"^<!-- not run: (.*?) -->$",
        r'<small class="not-run">Not run by the tests: \1.</small>\n',
        markdown,
        flags=re.MULTILINE,
    )
