"""``broker dev``: a whole broker on this machine, with a Redis and a feed of its own.

While it runs, a file that only this user can read says where it is, so that
``broker publish`` and ``broker tail`` in another shell find it without being told.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog
from pydantic import SecretStr
from rich.console import Console

from broker.config import Settings
from broker.demo import SESSION, run_demo
from broker.store.embedded import EmbeddedServer, find_server
from broker.supervisor.supervisor import Addresses, Supervisor

log = structlog.get_logger(__name__)

WORKERS = 2


class DevState(msgspec.Struct, frozen=True):
    """What a running ``broker dev`` leaves for other commands of the same user.

    Attributes:
        pid: The process that wrote it.
        redis_url: Where to publish; may hold a password.
        event_stream: The setting of that name.
        url: Where clients connect.
        admin: Where operators ask.
    """

    pid: int
    redis_url: str
    event_stream: str
    url: str
    admin: str = ""


def state_path() -> Path:
    """Where the state file is: the user's runtime directory, else the temporary one."""
    directory = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(directory) / f"broker-dev-{os.getuid()}.json"


def read_state(path: Path | None = None) -> DevState | None:
    """What the running ``broker dev`` wrote; None if none runs.

    A file of another user is ignored: in a shared directory anybody may plant one.
    """
    try:
        fd = os.open(path or state_path(), os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        if os.fstat(fd).st_uid != os.getuid():
            return None
        try:
            state = msgspec.json.decode(file.read(), type=DevState)
            os.kill(state.pid, 0)
        except (msgspec.DecodeError, OSError):
            return None
    return state


def write_state(state: DevState, path: Path | None = None) -> None:
    """Say where this process is; readable by this user only (mode 0600)."""
    path = path or state_path()
    # A file made by mkstemp belongs to us alone, whatever lies at the final name.
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(state))
    Path(name).rename(path)


def remove_state(path: Path | None = None) -> None:
    """Remove the file unless another process has written it since."""
    path = path or state_path()
    state = read_state(path)
    if state is not None and state.pid == os.getpid():
        path.unlink(missing_ok=True)


def dev_settings(settings: Settings) -> Settings:
    """Change what was not set to what suits a single developer.

    Two workers, the console, a quiet log, a shutdown without waiting, and free ports
    where the usual ones are taken.
    """
    wanted: dict[str, object] = {
        "workers": WORKERS,
        "console": True,
        "console_session": SESSION,
        "log_level": "warning",
        "drain_delay_s": 0.0,
        "drain_s": 0.5,
    }
    for host, port in (("host", "port"), ("admin_host", "admin_port")):
        if not _can_listen(getattr(settings, host), getattr(settings, port)):
            wanted[port] = 0
    given = settings.model_fields_set
    return settings.model_copy(
        update={name: value for name, value in wanted.items() if name not in given}
    )


@contextlib.contextmanager
def redis_for(settings: Settings) -> Iterator[Settings]:
    """The settings with a Redis that is there: the one given, else one of our own.

    Raises:
        StoreError: None was given, and there is no server to start.
    """
    if "redis_url" in settings.model_fields_set:
        yield settings
        return
    with EmbeddedServer(find_server()) as server:
        yield settings.model_copy(update={"redis_url": SecretStr(server.url)})


async def run_dev(settings: Settings, *, with_demo: bool = True) -> int:
    """Run supervisor and demo feed until told to stop; returns the exit status."""
    url = settings.redis_url.get_secret_value()
    feeds: list[asyncio.Task[None]] = []

    def announce(addresses: Addresses) -> None:
        stream, public = settings.event_stream, addresses.public
        write_state(DevState(os.getpid(), url, stream, public, addresses.admin))
        _greet(Console(), settings, addresses)
        if with_demo:
            feed = asyncio.create_task(run_demo(url, settings.event_stream))
            feed.add_done_callback(_log_failure)
            feeds.append(feed)

    try:
        return await Supervisor(settings, announce=announce).run()
    finally:
        remove_state()
        for feed in feeds:
            feed.cancel()
        await asyncio.gather(*feeds, return_exceptions=True)


def _greet(console: Console, settings: Settings, addresses: Addresses) -> None:
    """Say where everything is, in commands that work when pasted into a shell."""
    url = addresses.public
    lines = [
        *([f"console  {url}/console"] if settings.console else []),
        f"clients  {url}/v1/ws/{SESSION}".replace("http", "ws", 1),
        f"admin    {addresses.admin}",
        f"redis    {settings.redis_address}",
        "",
        "Paste into another shell:",
        *(f"  {command}" for command in pasted_commands(settings, addresses)),
        "",
        "Ctrl-C ends it.",
    ]
    console.print("broker is up", style="bold green")
    for line in lines:
        # Neither wrapped nor coloured: a command must survive being copied.
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def pasted_commands(settings: Settings, addresses: Addresses) -> list[str]:
    """Shell commands that try the running broker out."""
    own = own_command()
    data = shlex.quote('{"text":"hello"}')
    commands = [f"{own} tail {SESSION}", f"{own} publish {SESSION} note {data}"]
    key = shlex.quote(settings.event_stream.replace("{session}", SESSION))
    # With a password in the URL the line would show it; with TLS it would not do.
    is_plain = settings.redis_address == settings.redis_url.get_secret_value()
    if shutil.which("redis-cli") and is_plain:
        commands.append(
            f"redis-cli -u {shlex.quote(settings.redis_address)} XADD {key} "
            f"MAXLEN '~' 10000 '*' event note data {data}"
        )
    if shutil.which("curl"):
        commands.append(f"curl -sN {addresses.public}/v1/sse/{SESSION}")
        commands.append(f"curl -s {addresses.admin}/metrics")
    return commands


def own_command() -> str:
    """How this program is called from a shell in this directory."""
    script = Path(sys.executable).parent / "broker"
    if not script.exists():
        return f"{shlex.quote(sys.executable)} -m broker"
    if sys.prefix == sys.base_prefix and shutil.which("broker") == str(script):
        return "broker"
    # In a virtual environment the other shell need not have it on its PATH.
    here = Path.cwd()
    shown = script.relative_to(here) if script.is_relative_to(here) else script
    return shlex.quote(str(shown))


def _can_listen(host: str, port: int) -> bool:
    try:
        # As a list, so that names and IPv6 addresses work as well.
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError:
        return False
    return True


def _log_failure(feed: asyncio.Task[None]) -> None:
    if not feed.cancelled() and (error := feed.exception()) is not None:
        log.error("demo_failed", exc_info=error)
