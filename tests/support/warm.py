"""
Python programs that begin where pandas and the like are imported already.

What DataJoint needs takes two seconds to import, and all else a program of a test does takes less.
Here a process that has imported it forks a child for each program. DataJoint and this package
are imported there, with the environment that the program is given.
"""

import atexit
import importlib
import json
import os
import runpy
import select
import subprocess
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

IMPORTED = (
    *("fsspec", "networkx", "numpy", "pandas", "pandas.core.groupby.generic", "psycopg2"),
    *("pydantic_settings", "pymysql", "tqdm", "urllib.request", "xxhash"),
)


@cache
def _server() -> subprocess.Popen[str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("DJ_")}
    server = subprocess.Popen([sys.executable, __file__], stdin=-1, stdout=-1, text=True, env=bare)
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    with server:  # closes what it reads
        server.terminate()


def run(
    *arguments: str, env: dict[str, str], cwd: Path | str = "/", timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """
    Run a program as ``python ARGUMENTS`` would; one that is given by ``-c``, without warnings.

    Parameters
    ----------
    *arguments : str
        A script, or ``-c`` and a program, and what it is given.
    env : dict
        Its environment.
    cwd : path
        Its working folder.
    timeout : float
        Seconds until it is taken to hang.
    """
    server = _server()
    assert server.stdin
    assert server.stdout
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        files = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
        request = {"arguments": arguments, "env": env, "cwd": str(cwd), "files": files}
        print(json.dumps(request), file=server.stdin, flush=True)
        if not select.select([server.stdout], [], [], timeout)[0]:
            _server.cache_clear()
            server.kill()
            raise subprocess.TimeoutExpired(list(arguments), timeout)
        code = int(server.stdout.readline())
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(arguments), code, out.read(), err.read())


def output(*arguments: str, env: dict[str, str] | None = None, timeout: float = 60) -> str:
    """Run a program, and return what it prints; it must not fail."""
    env = {**os.environ} if env is None else env
    result = run(*arguments, env=env, cwd=Path.cwd(), timeout=timeout)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout.strip()


def serve() -> None:
    """Fork a child for each request."""
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(arguments: list[str], env: dict[str, str], cwd: str, files: list[str]) -> NoReturn:
    """Go on as the program."""
    for number, name in enumerate([os.devnull, *files]):
        opened = os.open(name, os.O_RDWR)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
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
