"""Starting: without Redis, with an unsuitable one, and with bad settings."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.store.embedded import EmbeddedServer, free_port
from tests.conftest import NewWatcher, RedisAt, StartRedis
from tests.harness import http
from tests.harness.client import Address, Refused, WebSocketClient
from tests.harness.publisher import Author
from tests.harness.recorder import Recorder
from tests.harness.redis_server import new_server
from tests.harness.servers import BrokerServer, environment


@pytest.fixture
def absent(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A Redis whose place is known but which does not run yet."""
    directory = tmp_path / "redis"
    directory.mkdir()
    server = new_server(directory)
    server.start()
    server.kill()
    yield server
    server.stop()


@pytest.fixture
def waiting(absent: EmbeddedServer, tmp_path: Path) -> Iterator[BrokerServer]:
    """A broker that was started before its Redis."""
    port, admin_port = free_port(), free_port()
    settings = {"port": port, "admin_port": admin_port}
    server = BrokerServer(absent.url, tmp_path, {**settings})
    server.allowed.append("redis_unavailable|probe")
    server.spawn()
    server.public, server.admin = ("127.0.0.1", port), ("127.0.0.1", admin_port)
    yield server
    server.stop()


async def status_of(address: Address, path: str) -> int:
    """The HTTP status, 0 while nobody listens."""
    try:
        return (await http.get(address, path)).status
    except OSError:
        return 0


async def until_status(address: Address, path: str, wanted: int) -> None:
    async with asyncio.timeout(20):
        # Another process's state: there is nothing to wait for but its answers.
        while await status_of(address, path) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_start_without_redis_waits_and_then_serves(
    waiting: BrokerServer,
    absent: EmbeddedServer,
    redis_at: RedisAt,
    watch: NewWatcher,
    recorder: Recorder,
    session: str,
) -> None:
    """Readiness says no until Redis comes, and then everything works."""
    await until_status(waiting.admin, "/healthz", 200)
    await until_status(waiting.admin, "/readyz", 503)
    await asyncio.sleep(1)
    reasons = (await http.get(waiting.admin, "/readyz")).json()["reasons"]
    absent.start()
    await until_status(waiting.admin, "/readyz", 200)
    waiting.wait_ready()
    redis = redis_at(absent.url)
    watcher = await watch(waiting, session).open()
    await Author(redis, recorder.ledger).publish(session, 5)
    await recorder.complete()

    assert "redis_never_up" in reasons
    assert len(watcher.events) == 5


async def test_absence_of_redis_is_said_once_in_a_while(
    waiting: BrokerServer,
) -> None:
    """A person sees why it waits, and the log is not flooded."""
    await until_status(waiting.admin, "/healthz", 200)
    line = waiting.log.wait_for(lambda text: "redis_unavailable" in text, 10.0)
    await asyncio.sleep(4)
    said = [text for text in waiting.log.lines if "redis_unavailable" in text]

    assert line is not None
    assert len(said) <= 8


async def test_clients_are_refused_while_redis_is_absent(
    waiting: BrokerServer, session: str
) -> None:
    """503 with Retry-After before the upgrade."""
    await until_status(waiting.admin, "/readyz", 503)
    await until_status(waiting.public, "/v1/nothing", 404)
    with pytest.raises(Refused) as refused:
        await WebSocketClient.connect(waiting.public, f"/v1/ws/{session}")

    assert refused.value.status == 503
    assert float(refused.value.headers["retry-after"]) > 0


async def test_readiness_stays_green_when_redis_goes_later(
    start_redis: StartRedis, tmp_path: Path, session: str
) -> None:
    """Only new clients are refused: otherwise the whole fleet would leave together."""
    redis = start_redis()
    broker = BrokerServer(redis.url, tmp_path, {})
    broker.allowed.append("redis_unavailable|probe")
    broker.start()
    try:
        client = await WebSocketClient.connect(broker.public, f"/v1/ws/{session}")
        await client.until("subscribed")
        redis.kill()
        await asyncio.sleep(2)
        ready = await http.get(broker.admin, "/readyz")
        with pytest.raises(Refused) as refused:
            await WebSocketClient.connect(broker.public, f"/v1/ws/{session}.new")

        assert ready.status == 200
        assert refused.value.status == 503
        assert float(refused.value.headers["retry-after"]) > 0
        assert not client.ended.done()
        client.cut()
    finally:
        broker.stop()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"port": "70000"}, ["BROKER_PORT", "70000", "65535"]),
        ({"ports": "1"}, ["BROKER_PORTS", "BROKER_PORT"]),
        ({"ring_bytes": "3MiB"}, ["BROKER_RING_BYTES", "3MiB", "power of two"]),
        ({"ring_bytes": "1MiB"}, ["BROKER_RING_BYTES", "1MiB", "16"]),
        ({"host": "0.0.0.0"}, ["BROKER_HOST", "0.0.0.0", "loopback"]),
        ({"auth": "jwt"}, ["BROKER_AUTH", "jwt", "BROKER_JWT_SECRET"]),
        ({"event_stream": "{session}"}, ["BROKER_EVENT_STREAM", "{session}"]),
        ({"event_stream": "broker:{session}"}, ["BROKER_EVENT_STREAM"]),
        ({"event_stream": "a:{session}:{session}"}, ["BROKER_EVENT_STREAM"]),
        ({"redis_url": "http://x"}, ["BROKER_REDIS_URL"]),
        ({"workers": "0"}, ["BROKER_WORKERS", "0"]),
        ({"heartbeat_s": "soon"}, ["BROKER_HEARTBEAT_S", "soon"]),
    ],
    ids=str,
)
def test_bad_settings_stop_the_start_with_a_sentence(
    tmp_path: Path, settings: dict[str, object], words: list[str]
) -> None:
    """It names the setting, the value and what is allowed; no traceback."""
    done = serve(tmp_path, "redis://127.0.0.1:1/0", settings)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_port_that_is_taken_stops_the_start_with_a_sentence(
    tmp_path: Path, shared_redis: EmbeddedServer, shared_broker: BrokerServer
) -> None:
    """Another server on the port is not a reason to restart for ever."""
    settings: dict[str, object] = {"admin_port": shared_broker.admin[1]}
    done = serve(tmp_path, shared_redis.url, settings)

    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "BROKER_ADMIN_PORT" in done.stderr + done.stdout


def test_cluster_is_refused_at_start(tmp_path: Path, start_redis: StartRedis) -> None:
    """What cannot work says so instead of being deaf."""
    server = start_redis(
        *("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    )
    done = serve(tmp_path, server.url, {})

    assert done.returncode not in (0, None)
    assert "cluster" in (done.stderr + done.stdout).lower()


def serve(
    directory: Path, redis_url: str, settings: dict[str, object]
) -> subprocess.CompletedProcess[str]:
    """Run ``broker serve``, which must end by itself."""
    with subprocess.Popen(
        [sys.executable, "-m", "broker", "serve"],
        cwd=directory,
        env=environment(redis_url, settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=20)
            pytest.fail(f"it serves although it must not:\n{out}{err}")
        return subprocess.CompletedProcess("serve", process.returncode, out, err)
