"""Paired timings, peaks of memory, and what a run has found."""

import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Timings = dict[str, list[float]]
ROUNDS_OF_A_QUICK_RUN = 1


@dataclass
class Run:
    """What a run is asked for, and what it has found, as it stands in its JSON."""

    quick: bool = False
    benchmark: str = ""
    found: list[dict[str, Any]] = field(default_factory=list)

    def add(self, kind: str, **what: Any) -> None:
        self.found.append({"kind": kind, "benchmark": self.benchmark, **what})


RUN = Run()


class Against(NamedTuple):
    """How our time is compared with a contender's, and what is to be reached."""

    name: str
    how: str
    goal: str


def side_by_side(contenders: dict[str, Callable[[], Any]], rounds: int) -> Timings:
    """
    Seconds of each contender in each round; all run in every round, after one that is not timed.

    The machine's moods then meet all of them, and ratios are taken within a round.
    """
    times: Timings = {name: [] for name in contenders}
    for number in range((min(rounds, ROUNDS_OF_A_QUICK_RUN) if RUN.quick else rounds) + 1):
        for name, run in contenders.items():
            gc.collect()
            start = time.perf_counter()
            result = run()
            seconds = time.perf_counter() - start
            if isinstance(result, Path):  # what was written; removing it is not measured
                result.unlink()
            del result
            if number:
                times[name].append(seconds)
    return times


def ratios(times: Timings, one: str, other: str) -> list[float]:
    """Of each round, the first's time divided by the second's."""
    return [a / b for a, b in zip(times[one], times[other], strict=True)]


def compared(times: Timings, against: Against) -> list[float]:
    """Of each round, the ratio that its goal is about."""
    if against.how == "faster":
        return ratios(times, against.name, "dj-npy")
    return ratios(times, "dj-npy", against.name)


def faster(times: Timings, name: str, goal: str) -> Against:  # noqa: ARG001
    """How many times faster we are."""
    return Against(name, "faster", goal)


def cost(times: Timings, name: str, goal: str) -> Against:  # noqa: ARG001
    """Our time as a multiple of the contender's."""
    return Against(name, "its time", goal)


def row(work: str, times: Timings, against: list[Against]) -> None:
    """Keep what was found, and print it: our time, then each contender's and how we compare."""
    RUN.add(
        "times",
        work=work,
        seconds={name: rounded(seconds) for name, seconds in times.items()},
        against=[each._asdict() for each in against],
    )
    told = "; ".join(
        f"{each.name} {milliseconds(times[each.name])} ms: "
        f"**{statistics.median(compared(times, each)):.2f}x {each.how}** ({each.goal})"
        for each in against
    )
    print(f"| {work} | {milliseconds(times['dj-npy'])} | {told} |", flush=True)


def facts(title: str, found: dict[str, str]) -> None:
    """Keep and print figures that have no contender."""
    RUN.add("facts", title=title, facts=found)
    print(f"\n| {title} | |\n| --- | --- |")
    for name, text in found.items():
        print(f"| {name} | {text} |", flush=True)


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder that other users can read, as nginx is one; it is removed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="dj-npy-bench-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rounded(seconds: list[float]) -> list[float]:
    """Four digits: more would only make the file longer."""
    return [float(f"{each:.4g}") for each in seconds]


def milliseconds(seconds: list[float]) -> str:
    """Of the median, with three digits."""
    median = statistics.median(seconds) * 1e3
    return f"{median:,.0f}" if median >= 99.95 else f"{median:.3g}"


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Bytes by which resident memory rises at most within the block (Linux)."""
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before = _status("VmRSS")
    peak: list[int] = []
    yield peak
    peak.append(_status("VmHWM") - before)


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name} in /proc/self/status")
