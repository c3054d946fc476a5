"""Lines over logarithmic axes as SVG, readable on light and dark pages."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from math import floor, log, log10

WIDTH, HEIGHT = 250, 230  # of the plane of one panel
LEFT, TOP, RIGHT, BOTTOM = 62, 62, 130, 50  # around each plane
MOST_TICKS, LINE_HEIGHT = 8, 14
# Page, text, grid, and a color for each of the lines.
LIGHT = ("#ffffff", "#1f2328", "#d1d9e0", "#0969da", "#bc4c00", "#8250df", "#1a7f37", "#57606a")
DARK = ("#0d1117", "#e6edf3", "#30363d", "#58a6ff", "#f0883e", "#bc8cff", "#3fb950", "#9198a1")
MOST_LINES = len(LIGHT) - 3


def _colors(page: str, ink: str, grid: str, *lines: str) -> str:
    rules = [f".page {{ fill: {page}; }} text {{ fill: {ink}; }} .grid {{ stroke: {grid}; }}"]
    for number, color in enumerate(lines):
        rules.append(f"polyline.c{number} {{ stroke: {color}; }}")
        rules.append(f"text.c{number}, circle.c{number} {{ fill: {color}; }}")
    return "\n".join(rules)


STYLE = f"""
text {{ font: 12px system-ui, sans-serif; }} .title {{ font-weight: 600; font-size: 14px; }}
polyline {{ fill: none; stroke-width: 1.5; }} .level {{ stroke-dasharray: 4 4; }}
polyline.c0 {{ stroke-width: 3; }} text.c0 {{ font-weight: 600; }}
{_colors(*LIGHT)}
@media (prefers-color-scheme: dark) {{
{_colors(*DARK)}
}}
"""


@dataclass(frozen=True)
class Panel:
    """One plane: `lines` are points (x, seconds) by name; a single point is drawn as a level."""

    title: str
    x_label: str
    lines: dict[str, list[tuple[float, float]]]


def chart(title: str, panels: list[Panel]) -> str:
    """Panels side by side, with one scale of seconds."""
    names = list(dict.fromkeys(["dj-npy", "built-in", *(n for each in panels for n in each.lines)]))
    if len(names) > MOST_LINES:
        raise ValueError(f"{len(names)} lines, and colors for {MOST_LINES}: {', '.join(names)}")
    seconds = [y for panel in panels for line in panel.lines.values() for _, y in line]
    ticks = _ticks(min(seconds), max(seconds))
    step = LEFT + WIDTH + RIGHT
    width, height = step * len(panels), TOP + HEIGHT + BOTTOM
    size = f'width="{width}" height="{height}"'
    box = f'viewBox="0 0 {width} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} {size} role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" {size}/>',
        _text(LEFT, 22, title, "title"),
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate({number * step + LEFT} {TOP})">')
        parts.extend(_panel(panel, ticks, names))
        parts.append("</g>")
    return "\n".join([*parts, "</svg>\n"])


def _panel(panel: Panel, ticks: list[float], names: list[str]) -> Iterator[str]:
    xs = sorted({x for line in panel.lines.values() for x, _ in line})

    def across(x: float) -> float:
        return round(_share(x, xs[0], xs[-1]) * WIDTH, 1)

    def down(y: float) -> float:
        return round((1 - _share(y, ticks[0], ticks[-1])) * HEIGHT, 1)

    yield _text(0, -14, panel.title, "")
    for x in xs:
        yield f'<path class="grid" d="M{across(x)} {HEIGHT}v5"/>'
        yield _text(across(x), HEIGHT + 19, f"{x:,g}", "", "middle")
    yield _text(WIDTH / 2, HEIGHT + 39, panel.x_label, "", "middle")
    for y in ticks:
        yield f'<path class="grid" d="M0 {down(y)}h{WIDTH}"/>'
        yield _text(-8, down(y) + 4, _time(y), "", "end")
    ends = {}
    for name, line in panel.lines.items():
        color, points = f"c{names.index(name)}", [(across(x), down(y)) for x, y in line]
        if len(points) == 1:
            color, points = f"{color} level", [(0, points[0][1]), (WIDTH, points[0][1])]
        path = " ".join(f"{x},{y}" for x, y in points)
        yield f'<polyline class="{color}" points="{path}"/>'
        if "level" not in color:
            yield from (f'<circle class="{color}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in points)
        ends[name] = points[-1]
    for name, (x, y) in _apart(ends).items():
        yield _text(x + 8, y + 4, name, f"c{names.index(name)}")


def _apart(ends: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Labels of lines that end at the same x moved down until each has a line of its own."""
    placed: dict[str, tuple[float, float]] = {}
    lowest: dict[float, float] = {}
    for name, (x, y) in sorted(ends.items(), key=lambda each: each[1][1]):
        y = max(y, lowest.get(x, y - LINE_HEIGHT) + LINE_HEIGHT)
        lowest[x], placed[name] = y, (x, y)
    return placed


def _share(value: float, low: float, high: float) -> float:
    return log(value / low) / log(high / low) if high > low else 0.5


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... that enclose both; only powers of ten where these are too many."""
    # One more on each side: a logarithm just below a whole number is rounded up to it.
    decades = range(floor(log10(low)) - 1, floor(log10(high)) + 3)
    for steps in ((1, 2, 5), (1,)):
        found = [float(f"{step}e{decade}") for decade in decades for step in steps]
        first = max(each for each in found if each <= low)
        last = min(each for each in found if each >= high and each > first)
        found = [each for each in found if first <= each <= last]
        if len(found) <= MOST_TICKS:
            break
    return found


def _time(seconds: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:g} {unit}"
    return f"{seconds * 1e6:g} \u00b5s"


def _text(x: float, y: float, text: str, color: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{color}" text-anchor="{anchor}">{escape(text)}</text>'
