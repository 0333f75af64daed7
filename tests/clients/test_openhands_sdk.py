"""The unmodified Python client of OpenHands V1, attached to a conversation here.

It needs Python 3.12. Where there is none nothing of this file is collected, which the
output then says. It is installed once, into the user's cache.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from broker.client import CommandConsumer
from broker.client.commands import Command
from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness.client import WebSocketClient
from tests.harness.publisher import key_of
from tests.harness.servers import BrokerServer
from tests.harness.tokens import SECRET, bearer, token
from tests.harness.tools import newer_python

CLIENT = "openhands-sdk==1.58.0"
HERE = Path(__file__).parent
DRIVER = HERE / "openhands_sdk.py"
CONSTRAINTS = HERE / "openhands_sdk.txt"
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENHANDS_SUPPRESS_BANNER": "1"}
"""What keeps the client from asking other hosts for something, and from talking."""
ANSWER_S = 90
RUN_S = 60
"""The client listens for the end of a run only after the answer to its POST. A service
may be faster than that: then the client believes what it asks for after 30 s."""
Json = dict[str, Any]


PYTHON = newer_python()
__test__ = PYTHON is not None
pytestmark = pytest.mark.timeout(900)  # The client may have to be installed.


@pytest.fixture(scope="session")
def client_python() -> Path:
    """A Python that has the client."""
    assert PYTHON is not None
    found = hashlib.sha256(CONSTRAINTS.read_bytes() + PYTHON.encode()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "stream-broker-tests" / f"{CLIENT}-{found[:16]}"
    if not home.exists():
        # Beside it and then in one step: another run may be doing the same.
        making = home.with_name(f"{home.name}.{os.getpid()}")
        _run(PYTHON, "-m", "venv", making)
        pip = (making / "bin" / "python", "-m", "pip", "--disable-pip-version-check")
        _run(*pip, "install", "--quiet", CLIENT, "--constraint", CONSTRAINTS)
        with suppress(OSError):
            making.rename(home)
        shutil.rmtree(making, ignore_errors=True)
    return home / "bin" / "python"


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=800)


class Client:
    """The driver in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def do(self, order: str, **arguments: Any) -> Json:
        """Give an order; its answer."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(orjson.dumps({"do": order, **arguments}) + b"\n")
        async with asyncio.timeout(ANSWER_S):
            answer: Json = orjson.loads(await stdout.readline())
        return answer


NewClient = Callable[..., Awaitable[Client]]


@pytest.fixture
async def new_client(client_python: Path) -> AsyncIterator[NewClient]:
    """Start clients; they end with the test."""
    clients: list[Client] = []

    async def start(server: BrokerServer, conversation: str, key: str) -> Client:
        host = f"http://{server.public[0]}:{server.public[1]}"
        process = await asyncio.create_subprocess_exec(
            *(client_python, DRIVER, host, key, conversation),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | QUIET,
        )
        clients.append(Client(process))
        return clients[-1]

    yield start
    for client in clients:
        client.process.kill()
        await client.process.communicate()


@pytest.fixture
def conversation() -> str:
    """A conversation of the test's own."""
    return str(uuid.uuid4())


@pytest.fixture
def guarded(start_broker: StartBroker, shared_redis: EmbeddedServer) -> BrokerServer:
    """A broker that asks for keys; a user may have one session."""
    return start_broker(
        shared_redis.url, auth="jwt", jwt_secret=SECRET, max_sessions_per_user=1
    )


class Service:
    """What an agent's service does, as far as its client can see."""

    def __init__(self, redis: Redis, conversation: str) -> None:
        self.said: list[str] = []
        self._redis = redis
        self._conversation = conversation
        self._number = 0

    async def publish(self, event: Json, **fields: str | int) -> str:
        """Publish an event of the conversation; its id."""
        self._number += 1
        head = {
            "id": str(uuid.uuid4()),
            "timestamp": f"2026-01-01T00:00:00.{self._number:06}",
            "source": "environment",
        }
        data = orjson.dumps(head | event)
        entry: Any = {"event": "oh_event", "data": data, **fields}
        await self._redis.xadd(key_of(self._conversation), entry)
        return str(head["id"])

    async def say(self, text: str, role: str = "user") -> str:
        """Publish a message."""
        content = [{"type": "text", "text": text}]
        said = {"role": role, "content": content}
        source = "user" if role == "user" else "agent"
        return await self.publish(
            {"source": source, "llm_message": said, "kind": "MessageEvent"}
        )

    async def tell(self, key: str, value: Any, **fields: str | int) -> str:
        """Publish how the conversation is."""
        kind = "ConversationStateUpdateEvent"
        return await self.publish({"key": key, "value": value, "kind": kind}, **fields)

    async def tell_all(self, status: str) -> None:
        """Publish the whole state, which is no part of the log."""
        agent = {
            "kind": "Agent",
            "llm": {"model": "openai/test", "usage_id": "agent"},
            "tools": [],
        }
        state = {
            "id": self._conversation,
            "agent": agent,
            "execution_status": status,
            "max_iterations": 42,
        }
        await self.tell("full_state", state, transient=1)

    async def serve(self, url: str) -> None:
        """Do what is commanded, until it is cancelled."""
        group = f"agents-{self._conversation}"
        async with CommandConsumer(url, group=group, start="0") as commands:
            async for command in commands:
                if command.session == self._conversation:
                    await self._do(command)
                await command.done()

    async def _do(self, command: Command) -> None:
        self.said.append(command.cmd)
        if command.cmd == "message":
            await self.say(command.data["content"][0]["text"])
        elif command.cmd == "run":
            await self.tell("execution_status", "running")
            await self.say("done", "assistant")
            await self.tell("execution_status", "finished")
            await self.tell_all("finished")


@pytest.fixture
def service(redis: Redis, conversation: str) -> Service:
    """Publishes to the conversation."""
    return Service(redis, conversation)


@pytest.fixture
async def serving(
    service: Service, shared_redis: EmbeddedServer
) -> AsyncIterator[Service]:
    """The same, and does what it is told."""
    task = asyncio.create_task(service.serve(shared_redis.url))
    yield service
    task.cancel()
    await asyncio.wait([task])


async def test_it_attaches_to_a_conversation_and_has_its_past(
    guarded: BrokerServer, new_client: NewClient, service: Service, conversation: str
):
    """All that was published, page after page, and the newest state."""
    ids = [await service.say(f"number {number}") for number in range(250)]
    await service.tell_all("paused")
    client = await new_client(guarded, conversation, token())
    attached = await client.do("attach")

    assert attached["events"][:250] == ids
    assert attached["status"] == "paused"
    assert attached["model"] == "openai/test"
    assert attached["max_iterations"] == 42


async def test_it_attaches_where_no_state_was_published(
    guarded: BrokerServer, new_client: NewClient, service: Service, conversation: str
):
    """What it cannot do without is made up."""
    said = await service.say("hello")
    client = await new_client(guarded, conversation, token())
    attached = await client.do("attach")
    later = await service.say("more")
    heard = await client.do("wait", event_id=later, timeout_s=10)

    assert attached["events"][0] == said
    assert attached["status"] == "idle"
    assert heard["found"]


async def test_a_run_returns_when_the_service_has_done(
    guarded: BrokerServer, new_client: NewClient, serving: Service, conversation: str
):
    """What was said is echoed, and each event comes to the callback once, in order."""
    await serving.say("before")
    await serving.tell_all("idle")
    client = await new_client(guarded, conversation, token())
    await client.do("attach")
    said = await client.do("send", text="do it")
    done = await client.do("run", timeout_s=RUN_S)
    paused = await client.do("pause")
    again = await client.do("run", timeout_s=RUN_S)

    assert (said, paused) == ({}, {})
    assert done["status"] == "finished"
    assert "error" not in again
    assert serving.said[:2] == ["message", "run"]
    assert len(set(again["heard"])) == len(again["heard"])
    for event_id in done["heard"]:
        assert event_id in done["events"]


async def test_after_a_restart_it_has_what_it_missed_once(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    new_client: NewClient,
    service: Service,
    conversation: str,
):
    """What was published meanwhile, and what comes then."""
    settings = {"auth": "jwt", "jwt_secret": SECRET}
    first = start_broker(shared_redis.url, **settings)
    await service.say("before")
    client = await new_client(first, conversation, token())
    await client.do("attach")
    first.stop()
    missed = [await service.say(f"missed {number}") for number in range(3)]
    start_broker(shared_redis.url, port=first.public[1], **settings)
    await client.do("wait", event_id=missed[-1], timeout_s=20)
    later = await service.say("later")
    heard = await client.do("wait", event_id=later, timeout_s=20)

    assert [one for one in heard["heard"] if one in (*missed, later)] == [
        *missed,
        later,
    ]


async def test_an_evicted_conversation_ends_its_client_for_good(
    guarded: BrokerServer, new_client: NewClient, service: Service, conversation: str
):
    """It does not come back to drive out the newer one."""
    await service.say("before")
    text = token(f"user-{conversation}")
    client = await new_client(guarded, conversation, text)
    await client.do("attach")
    newer = await WebSocketClient.connect(
        guarded.public, f"/v1/ws/{uuid.uuid4()}", headers=bearer(text)
    )
    ended = await client.do("ended", timeout_s=20)
    newer.send({"cmd": "ping"})
    await newer.until("pong")
    newer.cut()

    assert ended == {"ended": True}


async def test_a_wrong_key_or_conversation_is_told_as_an_error(
    guarded: BrokerServer, new_client: NewClient, service: Service, conversation: str
):
    """And not by a wait that ends in nothing."""
    await service.say("before")
    stranger = await new_client(guarded, conversation, "wrong")
    lost = await new_client(guarded, str(uuid.uuid4()), token())

    assert "401" in (await stranger.do("attach"))["error"]
    assert "404" in (await lost.do("attach"))["error"]
