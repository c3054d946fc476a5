"""
Python programs that begin where pandas and the like are imported already.

What DataJoint needs takes two seconds to import, and all else a program of a test does takes less.
Here a process that has imported it forks a child for each program. DataJoint and this package
are imported there, with the environment that the program is given.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

IMPORTED = (
    *("difflib", "fasteners", "fsspec", "networkx", "numpy", "pandas", "platformdirs", "psutil"),
    *("pandas.core.groupby.generic", "psycopg2.sql", "pydantic_settings", "pymysql", "pyparsing"),
    *("s3fs", "sqlite3", "tqdm", "unittest", "urllib.request", "xxhash"),
)

# On the side of the tests

_ended: dict[int, int] = {}
"""Exit codes of programs that nobody has asked for, by process."""


@cache
def _server() -> subprocess.Popen[bytes]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("DJ_")}
    command = [sys.executable, __file__]
    server = subprocess.Popen(command, stdin=-1, stdout=-1, bufsize=0, env=bare)
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[bytes]) -> None:
    with server:  # closes what it reads
        server.terminate()


def _start(
    arguments: tuple[str, ...],
    env: Mapping[str, str] | None,
    cwd: Path | str | None,
    *files: int,
) -> int:
    """Start a program with these descriptors as its first ones, and return its process."""
    server = _server()
    assert server.stdin
    request = {
        "arguments": arguments,
        "env": {**(os.environ if env is None else env)},
        "cwd": str(Path.cwd() if cwd is None else cwd),
        "files": [f"/proc/{os.getpid()}/fd/{file}" for file in files],
    }
    server.stdin.write(json.dumps(request).encode() + b"\n")
    while (started := _listen()) is None:
        pass
    return started


def _listen() -> int | None:
    """Return the process of a program that has started, or note that another one has ended."""
    stdout = _server().stdout
    assert stdout
    process, *code = map(int, stdout.readline().split())
    if not code:
        return process
    [_ended[process]] = code
    return None


def _wait(process: int, timeout: float) -> int | None:
    """Return the exit code of a program, or None if it has none for so many seconds."""
    until, stdout = time.monotonic() + timeout, _server().stdout
    assert stdout
    while process not in _ended:
        if not select.select([stdout], [], [], max(0, until - time.monotonic()))[0]:
            return None
        _listen()
    return _ended.pop(process)


def run(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | str | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """
    Run a program as ``python ARGUMENTS`` would; one that is given by ``-c``, without warnings.

    Parameters
    ----------
    *arguments : str
        A script, or ``-c`` and a program, and what it is given.
    env : dict, optional
        Its environment; by default, that of this process.
    cwd : path, optional
        Its working folder; by default, that of this process.
    timeout : float
        Seconds until it is taken to hang.
    """
    with (
        open(os.devnull) as nothing,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        files = [file.fileno() for file in (nothing, out, err)]
        process = _start(arguments, env, cwd, *files)
        code = _wait(process, timeout)
        if code is None:
            os.kill(process, signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(arguments), timeout)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(arguments), code, out.read(), err.read())


def output(*arguments: str, env: Mapping[str, str] | None = None, timeout: float = 60) -> str:
    """Run a program, and return what it prints; it must not fail."""
    result = run(*arguments, env=env, timeout=timeout)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout.strip()


class Program:
    """A program that goes on while the test does: what is used of `subprocess.Popen`, as text."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        there, stdin = os.pipe()
        stdout, back = os.pipe()
        self.pid = _start(arguments, env, None, there, back, self._errors.fileno())
        os.close(there)
        os.close(back)
        self.stdin, self.stdout = open(stdin, "w"), open(stdout)  # noqa: SIM115
        self.returncode: int | None = None

    def poll(self, timeout: float = 0) -> int | None:
        if self.returncode is None:
            self.returncode = _wait(self.pid, timeout)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def communicate(self, text: str = "", timeout: float = 60) -> tuple[str, str]:
        """Write this and no more, and return what it prints, and what of errors, when it ends."""
        late = threading.Timer(timeout, os.kill, (self.pid, signal.SIGKILL))
        late.start()
        with self._errors, self.stdout:
            try:
                with suppress(BrokenPipeError), self.stdin:
                    self.stdin.write(text)
                output = self.stdout.read()
                code = self.poll(timeout)
            finally:
                late.cancel()
            assert code is not None, "it hangs"
            self._errors.seek(0)
            return output, self._errors.read()


# On the other side


def serve() -> None:
    """Fork a child for each request; say which it is, and when it has ended."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # nothing of it is looked through again, least of all when a child ends
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 1000)
            bury()
        if 0 in ready:
            line = sys.stdin.buffer.readline()
            if not line:
                return
            begin(**json.loads(line))


def bury() -> None:
    """Tell of each child that has ended."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            print(ended[0], os.waitstatus_to_exitcode(ended[1]), flush=True)


def begin(arguments: list[str], env: dict[str, str], cwd: str, files: list[str]) -> None:
    """Fork a child that goes on as the program."""
    opened = [
        os.open(name, os.O_RDWR if number == 2 else (os.O_RDONLY, os.O_WRONLY)[number])
        for number, name in enumerate(files)
    ]
    child = os.fork()
    if not child:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, descriptor in enumerate(opened):
            os.dup2(descriptor, number)
        os.closerange(3, max(opened) + 1)
        become(arguments, env, cwd)
    for descriptor in opened:
        os.close(descriptor)
    print(child, flush=True)


def become(arguments: list[str], env: dict[str, str], cwd: str) -> NoReturn:
    """Go on as the program."""
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:0] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    warnings.resetwarnings()
    if arguments[0] == "-c":
        warnings.simplefilter("ignore")
        program: dict[str, Any] = {"__name__": "__main__"}
        sys.argv = ["-c", *arguments[2:]]
        sys.path[0] = ""
        exec(compile(arguments[1], "<string>", "exec"), program)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
    raise SystemExit(0)


if __name__ == "__main__":
    serve()
