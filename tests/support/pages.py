"""The code blocks of the documentation's pages, and how they are run."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>[^\n]*?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
NOT_RUN, NEW_PROCESS = "not run:", "new process"


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    mark: str
    """What an HTML comment on the line above it says."""
    code: str

    @property
    def reason(self) -> str | None:
        """Why it is not run."""
        return self.mark[len(NOT_RUN) :].strip() if self.mark.startswith(NOT_RUN) else None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("code")) + 1,
            found["language"],
            found["mark"] or "",
            re.sub(f"^{found['indent']}", "", found["code"], flags=re.MULTILINE),
        )
        for found in _BLOCK.finditer(text)
    ]


def processes(page: Path) -> Iterator[list[Block]]:
    """What is run of a page, by the process in which it is."""
    run: list[Block] = []
    for block in blocks(page):
        if block.language == "python" and block.reason is None:
            if block.mark.startswith(NEW_PROCESS) and run:
                yield run
                run = []
            run.append(block)
    if run:
        yield run


def execute(code: str, names: dict[str, Any], path: str, line: int) -> None:
    """Run a block; what a comment says of an expression's value is so."""
    lines = code.splitlines()
    for statement in ast.parse(code).body:
        last, end = statement.end_lineno or 0, statement.end_col_offset or 0
        behind = lines[last - 1].encode()[end:].decode().strip().lstrip("#").strip()
        ast.increment_lineno(statement, line - 1)
        if isinstance(statement, ast.Expr):
            value = eval(compile(ast.Expression(statement.value), path, "eval"), names)
            if _is_said(behind, value):
                assert behind == repr(value), f"{path}:{statement.lineno}: it is {value!r}"
        else:
            exec(compile(ast.Module([statement], []), path, "exec"), names)


def _is_said(comment: str, value: Any) -> bool:
    """Whether a comment is a literal, or looks like the value, and no prose."""
    if comment.startswith(f"{type(value).__name__}("):
        return True
    try:
        ast.literal_eval(comment)
    except (SyntaxError, ValueError):
        return False
    return True


def as_program(run: list[Block], prelude: str) -> str:
    """Blocks as a program of their own."""
    calls = [f"execute({block.code!r}, names, {str(block.page)!r}, {block.line})" for block in run]
    start = ["from tests.support.pages import execute", "names = {'__name__': '__main__'}"]
    return "\n".join([prelude, *start, *calls]) + "\n"


def commands(page: Path) -> list[list[str]]:
    """The `dj-npy` commands that a page shows, in words."""
    found = []
    for block in blocks(page):
        if block.language in ("sh", "console") and block.reason is None:
            for command in re.split(r"\n|&&|\|", block.code.replace("\\\n", " ")):
                words = command.split("#")[0].split()
                if "dj-npy" in words:
                    found.append(words[words.index("dj-npy") + 1 :])
    return found
