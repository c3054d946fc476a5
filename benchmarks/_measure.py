"""Paired timings and peaks of memory."""

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Timings = dict[str, list[float]]


def side_by_side(contenders: dict[str, Callable[[], Any]], rounds: int) -> Timings:
    """
    Seconds of each contender in each round; all run in every round, after one that is not timed.

    The machine's moods then meet all of them, and ratios are taken within a round.
    """
    times: Timings = {name: [] for name in contenders}
    for number in range(rounds + 1):
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


def ratio(times: Timings, one: str, other: str) -> float:
    """Median over the rounds of the first's time divided by the second's."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def milliseconds(times: Timings, name: str) -> str:
    return f"{statistics.median(times[name]) * 1e3:,.1f}"


def row(work: str, times: Timings, against: list[tuple[str, str, str]]) -> None:
    """Print a table row: our time, then (contender, how we compare, what is to be reached)."""
    compared = "; ".join(
        f"{name} {milliseconds(times, name)} ms: **{text}** ({goal})"
        for name, text, goal in against
    )
    print(f"| {work} | {milliseconds(times, 'dj-npy')} | {compared} |", flush=True)


def faster(times: Timings, name: str, goal: str) -> tuple[str, str, str]:
    return name, f"{ratio(times, name, 'dj-npy'):.2f}x faster", goal


def cost(times: Timings, name: str, goal: str) -> tuple[str, str, str]:
    return name, f"{ratio(times, 'dj-npy', name):.2f}x its time", goal


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


def machine() -> str:
    """What was measured on."""
    import platform

    import datajoint as dj
    import numpy as np

    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, NumPy {np.__version__}, "
        f"DataJoint {dj.__version__}"
    )
