"""The commands as a person types them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import NewWatcher, StartBroker
from tests.harness.publisher import Author
from tests.harness.recorder import Recorder
from tests.harness.servers import BrokerServer, environment


class Command:
    """One command that runs until it is stopped."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> Any:
        """The next line of its output, as JSON."""
        assert self._process.stdout is not None
        async with asyncio.timeout(15):
            return orjson.loads(await self._process.stdout.readline())

    async def stop(self) -> int:
        self._process.send_signal(signal.SIGINT)
        async with asyncio.timeout(10):
            return await self._process.wait()

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            return await self._process.wait()

    def destroy(self) -> None:
        if self._process.returncode is None:
            self._process.kill()


class Shell:
    """Runs commands against the servers of a test."""

    def __init__(self, broker: BrokerServer, redis_url: str, directory: Path) -> None:
        host, port = broker.public
        self._directory = directory
        self._environment = environment(redis_url, {"host": host, "port": port})
        self._environment["XDG_RUNTIME_DIR"] = str(directory)
        self.running: list[Command] = []

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "broker", *arguments],
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    async def start(self, *arguments: str) -> Command:
        """Start a command that goes on."""
        command = Command(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "broker", *arguments),
                cwd=self._directory,
                env=self._environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        )
        self.running.append(command)
        return command


@pytest.fixture
async def shell(
    broker: BrokerServer, shared_redis: EmbeddedServer, tmp_path: Path
) -> AsyncIterator[Shell]:
    """Commands for the shared broker."""
    shell = Shell(broker, shared_redis.url, tmp_path)
    yield shell
    for command in shell.running:
        command.destroy()


async def test_publish_arrives_and_prints_the_id(
    shell: Shell,
    broker: BrokerServer,
    watch: NewWatcher,
    recorder: Recorder,
    session: str,
) -> None:
    """The printed id is the position of the event."""
    watcher = await watch(broker, session).open()
    done = await asyncio.to_thread(
        shell.run, "publish", session, "greeting", '{"hello":1}'
    )
    printed = done.stdout.strip()
    ms, n = map(int, printed.split("-"))
    recorder.ledger.published(session, (ms, n))
    frame = await watcher.next("greeting")

    assert done.returncode == 0
    assert frame["id"] == f"{printed}@1"
    assert frame["data"] == {"hello": 1}


@pytest.mark.parametrize(
    "arguments",
    [
        ("publish", "bad name", "e"),
        ("publish", "s", "e", "{not json"),
        ("tail", "_probe"),
        ("tail", "s", "--from", "garbage"),
        ("nonsense",),
    ],
    ids=str,
)
def test_wrong_usage_ends_with_a_sentence(
    shared_redis: EmbeddedServer,
    shared_broker: BrokerServer,
    tmp_path: Path,
    arguments: tuple[str, ...],
) -> None:
    """Exit status 2 and no traceback."""
    done = Shell(shared_broker, shared_redis.url, tmp_path).run(*arguments)

    assert done.returncode == 2
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


def test_publish_without_redis_ends_with_a_sentence(
    shared_broker: BrokerServer, tmp_path: Path
) -> None:
    """A store that is away is exit status 1."""
    shell = Shell(shared_broker, "redis://127.0.0.1:1/0", tmp_path)
    done = shell.run("publish", "s", "e")

    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


async def test_tail_prints_one_json_object_per_line(
    shell: Shell, author: Author, session: str
) -> None:
    """From the position that was asked for, then live."""
    await author.publish(session, 5)
    tail = await shell.start("tail", session, "--from", "-2")
    first, second = await tail.line(), await tail.line()
    await author.publish(session, event="live")
    third = await tail.line()
    await tail.stop()

    assert [first["seq"], second["seq"]] == [4, 5]
    assert (third["event"], third["seq"]) == ("live", 6)


async def test_tail_survives_the_restart_of_the_broker(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    author: Author,
    tmp_path: Path,
    session: str,
) -> None:
    """It reconnects and resumes: nothing is missed, nothing printed twice."""
    first = start_broker(shared_redis.url)
    shell = Shell(first, shared_redis.url, tmp_path)
    await author.publish(session)
    tail = await shell.start("tail", session, "--from", "0")
    seqs = [(await tail.line())["seq"]]
    first.signal(signal.SIGTERM)
    assert await asyncio.to_thread(first.wait) == 0
    await author.publish(session, 3)
    start_broker(shared_redis.url, port=first.public[1])
    await author.publish(session, 2)
    seqs += [(await tail.line())["seq"] for _ in range(5)]
    await tail.stop()

    assert seqs == [1, 2, 3, 4, 5, 6]


def test_config_prints_settings_without_secrets(
    shared_broker: BrokerServer, tmp_path: Path
) -> None:
    """Everything in effect, in a form that can be used as .env, but no password."""
    shell = Shell(shared_broker, "redis://:hunter22@127.0.0.1:1/0", tmp_path)
    done = shell.run("config")

    assert done.returncode == 0
    assert "BROKER_WORKERS=2" in done.stdout
    assert f"BROKER_PORT={shared_broker.public[1]}" in done.stdout
    assert "hunter22" not in done.stdout + done.stderr


async def test_dev_shows_commands_that_work_when_pasted(tmp_path: Path) -> None:
    """Each line of the start-up text brings events or an id."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("BROKER_")}
    environ = kept | {"XDG_RUNTIME_DIR": str(tmp_path), "COLUMNS": "300"}
    dev = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker", "dev"),
        cwd=tmp_path,
        env=environ | {"BROKER_PORT": "0", "BROKER_ADMIN_PORT": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        pasted = await read_commands(dev)
        for line in pasted:
            assert await output_of(line, tmp_path, environ), line
    finally:
        dev.send_signal(signal.SIGINT)
        async with asyncio.timeout(15):
            await dev.wait()

    assert len(pasted) >= 4
    assert [name for name in os.listdir(tmp_path) if "broker-dev" in name] == []


async def read_commands(dev: asyncio.subprocess.Process) -> list[str]:
    """The indented lines of the start-up text."""
    assert dev.stdout is not None
    text = b""
    async with asyncio.timeout(30):
        while b"Ctrl-C" not in text:
            part = await dev.stdout.readline()
            assert part, text.decode()
            text += part
    lines = text.decode().splitlines()
    return [line.strip() for line in lines if line.startswith("  ")]


async def output_of(line: str, directory: Path, environ: dict[str, str]) -> bytes:
    """The first output of a shell command, which is then ended."""
    process = await asyncio.create_subprocess_shell(
        f"exec {line}",
        cwd=directory,
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            return await process.stdout.readline()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_tail_ends_with_the_reader_of_its_output(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """As in ``broker tail ... | head -2``: it says nothing and does not come back."""
    await author.publish(session, 5)
    url = f"http://{broker.public[0]}:{broker.public[1]}"
    command = (
        f"{sys.executable} -m broker tail {session} --from 0 --url {url} | head -2"
    )
    pipe = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20):
        feeding = asyncio.create_task(_feed(author, session))
        out, err = await pipe.communicate()
    feeding.cancel()

    assert len(out.splitlines()) == 2
    assert err == b""


async def _feed(author: Author, session: str) -> None:
    while True:
        await author.publish(session)
        await asyncio.sleep(0.1)
