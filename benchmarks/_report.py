"""What a run has found as sections of a page and as pictures; pure but for `write`."""

import re
from collections.abc import Callable
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks._chart import Panel, chart
from benchmarks._measure import Against, compared, milliseconds, ratios

PAGE = "performance.md"
CHARTS = {
    "slices": "Time to get 100 rows of an array",
    "fetches": "Time to fetch rows",
    "workers": "Time for 300 arrays of 25 kB",
}
OURS_TOO = {"our Table.insert", "load() of each"}
A_PEER_WINS_FROM = 1.05
Found = dict[str, Any]
_SECTION = re.compile(r"(<!-- measured: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_GOAL = re.compile(r"(>=|<=|>) ([\d,.]+)(x| MiB)")


def write(run: Found, docs: Path) -> None:
    """Replace the measured sections of the page in `docs`, and its pictures."""
    page = docs / PAGE
    page.write_text(with_sections(page.read_text(), run), encoding="utf-8")
    for name in charts_of(run):
        (docs / picture(name)).write_text(draw(run, name), encoding="utf-8")


def with_sections(text: str, run: Found) -> str:
    """Return `text` with what is between its markers replaced; each section must have a place."""
    places = [found[2] for found in _SECTION.finditer(text)]
    if sorted(places) != sorted(SECTIONS):
        raise ValueError(
            f"{PAGE} must have '<!-- measured: NAME -->' and '<!-- end -->' once for each of "
            f"{', '.join(sorted(SECTIONS))}; it has them for {', '.join(sorted(places))}"
        )
    return _SECTION.sub(lambda found: f"{found[1]}{SECTIONS[found[2]](run)}{found[3]}", text)


class Goal(NamedTuple):
    """What a figure is to reach."""

    sign: str
    limit: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> "Goal | None":
        """Return None for a text that is a remark."""
        found = _GOAL.fullmatch(text)
        return found and cls(found[1], float(found[2].replace(",", "")), found[3])

    def verdict(self, value: float) -> str:
        reached = {
            ">=": value >= self.limit,
            "<=": value <= self.limit,
            ">": value > self.limit,
        }[self.sign]
        if reached:
            return "reached"
        if self.unit == " MiB":
            return f"**missed** by {value - self.limit:,.0f} MiB"
        return f"**missed** by {abs(value / self.limit - 1):.0%}"


def about(run: Found) -> str:
    quick = ", **a quick run of one round: no figure to rely on**" if run["quick"] else ""
    lines = [f"| run | {run['date']}, {run['minutes']:g} minutes{quick} |"]
    lines += [f"| load of the machine, of one minute | {run['load average']} |"]
    lines += [f"| {name} | {text} |" for name, text in run["machine"].items()]
    return table("| | |", lines)


def goals(run: Found) -> str:
    lines = []
    for each in of_kind(run, "times"):
        for against in map(unpacked, each["against"]):
            if goal := Goal.parse(against.goal):
                value = median(compared(each["seconds"], against))
                lines.append(
                    f"| {each['work']} | {ratio_to(against, value)} | {signs(against.goal)} "
                    f"| {goal.verdict(value)} |"
                )
    for each in of_kind(run, "memory"):
        if goal := Goal.parse(each["goal"]):
            value = each["above"]["dj-npy"] / 2**20
            lines.append(
                f"| memory above the array: {each['work']} | {value:.1f} MiB "
                f"| {signs(each['goal'])} | {goal.verdict(value)} |"
            )
    return table("| figure | measured | goal | |", lines)


def times(run: Found, benchmark: str) -> str:
    lines = []
    for each in of_kind(run, "times", benchmark):
        seconds = each["seconds"]
        for against in map(unpacked, each["against"]):
            found = compared(seconds, against)
            low, high = np.quantile(found, [0.25, 0.75])
            lines.append(
                f"| {each['work']} | {milliseconds(seconds['dj-npy'])} "
                f"| {against.name}: {milliseconds(seconds[against.name])} "
                f"| {number(median(found))} \u00d7 {against.how} "
                f"| {number(low)}\u2013{number(high)} | {signs(against.goal)} | {len(found)} |"
            )
    head = "| work | dj-npy, ms | against, ms | ratio | half of the rounds | goal | rounds |"
    return table(head, lines) + facts(run, benchmark)


def facts(run: Found, benchmark: str) -> str:
    return "".join(
        "\n" + table(f"| {each['title']} | |", [f"| {n} | {t} |" for n, t in each["facts"].items()])
        for each in of_kind(run, "facts", benchmark)
    )


def memory(run: Found) -> str:
    found = of_kind(run, "memory")
    names = list(dict.fromkeys(name for each in found for name in each["above"]))
    lines = [
        f"| {each['work']} | "
        + " | ".join(
            f"{each['above'][name] / 2**20:,.1f}" if name in each["above"] else "" for name in names
        )
        + f" | {signs(each['goal'])} |"
        for each in found
    ]
    return table(f"| MiB above the array itself | {' | '.join(names)} | goal |", lines)


def growth(run: Found) -> str:
    parts = []
    for name in charts_of(run):
        parts.append(f"![{CHARTS[name]}]({picture(name)})\n")
        for each in of_chart(run, name):
            points = medians(each)
            xs = sorted({x for line in points.values() for x, _ in line})
            lines = [
                f"| {x:,} | "
                + " | ".join(
                    " ".join(f"{number(y * 1e3)}" for at, y in line if at == x)
                    for line in points.values()
                )
                + " |"
                for x in xs
            ]
            head = f"| {each['panel']}; {each['grows']} | {', ms | '.join(points)}, ms |"
            parts.append(table(head, lines))
    return "\n".join(parts)


def peers(run: Found) -> str:
    """Whatever takes less than we do, by how much less."""
    found = [
        (median(ratios(each["seconds"], "dj-npy", name)), name, each["work"])
        for each in of_kind(run, "times")
        for name in {against["name"] for against in each["against"]} - OURS_TOO
    ]
    for each in of_kind(run, "growth"):
        ours = dict(each["points"]["dj-npy"])
        for name, line in each["points"].items():
            # Only where it ran beside us.
            paired = [(x, theirs) for x, theirs in line if len(theirs) == len(ours[x])]
            if name != "dj-npy" and paired:
                worst, x = max((median(map(truediv, ours[x], theirs)), x) for x, theirs in paired)
                found.append((worst, name, f"{each['panel']}; at worst, {each['grows']}: {x:,}"))
    lines = [
        f"| {work} | {name} | {number(ratio)} \u00d7 its time |"
        for ratio, name, work in sorted(found, reverse=True)
        if ratio > A_PEER_WINS_FROM
    ]
    return table("| work | faster is | we take |", lines)


SECTIONS: dict[str, Callable[[Found], str]] = {
    "machine": about,
    "goals": goals,
    "distance": lambda run: times(run, "distance"),
    "fileserver": lambda run: times(run, "fileserver"),
    "local": lambda run: times(run, "local"),
    "remote": lambda run: times(run, "remote"),
    "parts": lambda run: times(run, "parts"),
    "many": lambda run: times(run, "many"),
    "upkeep": lambda run: times(run, "upkeep"),
    "migrate": lambda run: times(run, "migrate"),
    "view": lambda run: facts(run, "view").lstrip() or times(run, "view"),
    "memory": memory,
    "growth": growth,
    "peers": peers,
}


def draw(run: Found, name: str) -> str:
    panels = [Panel(each["panel"], each["grows"], medians(each)) for each in of_chart(run, name)]
    return chart(CHARTS[name], panels)


def picture(name: str) -> str:
    return f"performance-{name}.svg"


def charts_of(run: Found) -> list[str]:
    return list(dict.fromkeys(each["chart"] for each in of_kind(run, "growth")))


def of_chart(run: Found, name: str) -> list[Found]:
    return [each for each in of_kind(run, "growth") if each["chart"] == name]


def medians(growth: Found) -> dict[str, list[tuple[float, float]]]:
    return {
        name: [(x, median(seconds)) for x, seconds in line]
        for name, line in growth["points"].items()
    }


def of_kind(run: Found, kind: str, benchmark: str | None = None) -> list[Found]:
    return [
        each
        for each in run["found"]
        if each["kind"] == kind and benchmark in (None, each["benchmark"])
    ]


def unpacked(against: Found) -> Against:
    return Against(**against)


def ratio_to(against: Against, value: float) -> str:
    if against.how == "faster":
        return f"{number(value)} \u00d7 faster than {against.name}"
    return f"{number(value)} \u00d7 the time of {against.name}"


def number(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:#.3g}".rstrip(".")


def signs(goal: str) -> str:
    """A goal with the signs of print."""
    goal = goal.replace(">=", "\u2265").replace("<=", "\u2264")
    return re.sub(r"(?<=\d)x$", " \u00d7", goal)


def table(head: str, lines: list[str]) -> str:
    if not lines:
        return "Not part of this run.\n"
    return "\n".join([head, "| --- " * (head.count("|") - 1) + "|", *lines]) + "\n"
