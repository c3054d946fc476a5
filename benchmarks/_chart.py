"""Lines over logarithmic axes as SVG, readable on light and dark pages."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from math import floor, log, log10

WIDTH, HEIGHT = 250, 230  # of the plane of one panel
LEFT, TOP, RIGHT, BOTTOM = 62, 62, 130, 50  # around each plane
MOST_TICKS, LINE_HEIGHT = 8, 14
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328; }
.page { fill: #ffffff; } .grid { stroke: #d1d9e0; } .title { font-weight: 600; font-size: 14px; }
polyline { fill: none; stroke-width: 1.5; } polyline.c0 { stroke-width: 3; }
.ends { stroke-dasharray: 4 4; }
.c0 { stroke: #0969da; } .c1 { stroke: #bc4c00; } .c2 { stroke: #8250df; } .c3 { stroke: #1a7f37; }
text.c0 { fill: #0969da; font-weight: 600; } text.c1 { fill: #bc4c00; }
text.c2 { fill: #8250df; } text.c3 { fill: #1a7f37; } text { stroke: none; }
circle.c0 { fill: #0969da; } circle.c1 { fill: #bc4c00; }
circle.c2 { fill: #8250df; } circle.c3 { fill: #1a7f37; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .page { fill: #0d1117; } .grid { stroke: #30363d; }
.c0 { stroke: #58a6ff; } .c1 { stroke: #f0883e; } .c2 { stroke: #bc8cff; } .c3 { stroke: #3fb950; }
text.c0, circle.c0 { fill: #58a6ff; } text.c1, circle.c1 { fill: #f0883e; }
text.c2, circle.c2 { fill: #bc8cff; } text.c3, circle.c3 { fill: #3fb950; } text { stroke: none; }
}
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
    seconds = [y for panel in panels for line in panel.lines.values() for _, y in line]
    ticks = _ticks(min(seconds), max(seconds))
    step = LEFT + WIDTH + RIGHT
    width, height = step * len(panels), TOP + HEIGHT + BOTTOM
    size = f'width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size} role="img">',
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
        color, points = f"c{names.index(name) % 4}", [(across(x), down(y)) for x, y in line]
        if len(points) == 1:
            color, points = f"{color} ends", [(0, points[0][1]), (WIDTH, points[0][1])]
        path = " ".join(f"{x},{y}" for x, y in points)
        yield f'<polyline class="{color}" points="{path}"/>'
        if "ends" not in color:
            yield from (f'<circle class="{color}" cx="{x}" cy="{y}" r="2.5"/>' for x, y in points)
        ends[name] = points[-1]
    for name, (x, y) in _apart(ends).items():
        yield _text(x + 8, y + 4, name, f"c{names.index(name) % 4}")


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
    decades = range(floor(log10(low)), floor(log10(high)) + 2)
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
