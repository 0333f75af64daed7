"""What an operator types, against a broker with people connected to it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness.client import WebSocketClient
from tests.harness.publisher import Author
from tests.harness.servers import BrokerServer

TOKEN = "an-operators-token"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def operator(broker: BrokerServer, tmp_path: Path) -> Run:
    """Runs a command against the shared broker."""
    return at(broker, tmp_path)


def at(broker: BrokerServer, directory: Path) -> Run:
    """Runs commands of somebody who knows where the admin port of *broker* is."""
    known = environment_of(broker, directory)

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "broker", *arguments],
            cwd=directory,
            env=known | more,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run


def environment_of(broker: BrokerServer, directory: Path) -> dict[str, str]:
    """This process's environment with the addresses of *broker* and nothing else."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("BROKER_")}
    (host, port), (admin_host, admin_port) = broker.public, broker.admin
    return kept | {
        "BROKER_HOST": host,
        "BROKER_PORT": str(port),
        "BROKER_ADMIN_HOST": admin_host,
        "BROKER_ADMIN_PORT": str(admin_port),
        "XDG_RUNTIME_DIR": str(directory),
    }


async def ask(run: Run, *arguments: str) -> Any:
    """The answer of a command that must succeed, as JSON."""
    done = await asyncio.to_thread(run, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def connect(broker: BrokerServer, session: str, user: str) -> WebSocketClient:
    """Somebody who reads *session*."""
    path = f"/v1/ws/{session}"
    client = await WebSocketClient.connect(broker.public, path, {"user": user})
    await client.until("subscribed")
    return client


async def test_sessions_lists_what_a_user_has_open(
    broker: BrokerServer, operator: Run, session: str
) -> None:
    """As a table for people, as JSON for programs."""
    client = await connect(broker, session, f"ada-{session}")
    listed = await ask(operator, "sessions", f"ada-{session}")
    table = await asyncio.to_thread(operator, "sessions", f"ada-{session}")
    await client.close()

    assert [(one["session"], one["state"]) for one in listed["sessions"]] == [
        (session, "open")
    ]
    assert table.stdout.splitlines()[0].split()[:2] == ["session", "state"]
    assert table.stdout.splitlines()[1].split()[:2] == [session, "open"]


async def test_evict_ends_a_session_for_good(
    broker: BrokerServer, operator: Run, session: str
) -> None:
    """Its connections get a terminal code; the second time it is not open."""
    client = await connect(broker, session, f"ada-{session}")
    done = await asyncio.to_thread(operator, "evict", f"ada-{session}", session)
    ended = await client.wait_ended(timeout_s=6)  # not by the next renewal
    again = await asyncio.to_thread(operator, "evict", f"ada-{session}", session)

    assert done.stdout == f"{session} is closed\n"
    assert ended.code == 4513
    assert again.stdout == f"{session} is not open\n"


async def test_disconnect_ends_connections_that_may_come_back(
    broker: BrokerServer, operator: Run, session: str
) -> None:
    """Everybody else stays."""
    ada = await connect(broker, session, f"ada-{session}")
    bob = await connect(broker, session, f"bob-{session}")
    told = await ask(operator, "disconnect", f"ada-{session}")
    ended = await ada.wait_ended()
    bob.send({"cmd": "ping", "id": "1"})
    pong = await bob.until("pong")
    await bob.close()

    assert told["workers"] >= 2
    assert ended.code is not None
    assert 4000 <= ended.code < 4500
    assert pong["data"]["ref"] == "1"


async def test_revoked_user_is_out_until_pardoned(
    broker: BrokerServer, operator: Run, session: str
) -> None:
    """Where nobody is asked for a token a name can still be shut out."""
    user = f"ada-{session}"
    client = await connect(broker, session, user)
    revoked = await ask(operator, "revoke", "--user", user, "--ttl", "60")
    began = time.monotonic()
    ended = await client.wait_ended()
    took_s = time.monotonic() - began
    undone = await asyncio.to_thread(operator, "revoke", "--user", user, "--undo")
    back = await connect(broker, session, user)
    await back.close()

    assert (revoked["kind"], revoked["name"]) == ("user", user)
    assert ended.code == 4511
    assert took_s < 5
    assert undone.stdout == f"{user} has access again\n"


async def test_top_names_who_is_behind(
    broker: BrokerServer, operator: Run, author: Author, session: str
) -> None:
    """A socket that takes nothing shows up with what waits for it."""
    path = f"/v1/ws/{session}"
    slow = await WebSocketClient.connect(
        broker.public, path, {"user": "slowpoke"}, receive_buffer_bytes=4096
    )
    await slow.until("subscribed")
    slow.pause()
    answer: dict[str, Any] = {"connections": []}
    async with asyncio.timeout(20):
        while not any(one["behind_entries"] for one in of(session, answer)):
            # The kernel takes some megabytes before the socket is full.
            for _ in range(5):
                await author.publish(session, 50, pad_bytes=20_000)
            answer = await ask(operator, "top", "--limit", "5")
    table = await asyncio.to_thread(operator, "top")
    slow.cut()

    assert of(session, answer)[0]["user"] == "slowpoke"
    assert answer["answered"] == answer["workers"] >= 2
    assert "slowpoke" in table.stdout
    assert "workers answered" in table.stdout


def of(session: str, answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The connections of one session, of those in an answer."""
    return [one for one in answer["connections"] if one["session"] == session]


async def test_top_watches_until_it_is_stopped(
    broker: BrokerServer, tmp_path: Path
) -> None:
    """One JSON object per line, again and again; Ctrl-C is no error to explain."""
    admin = f"http://{broker.admin[0]}:{broker.admin[1]}"
    command = ("top", "--watch", "--json", "--admin-url", admin)
    watching = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker", *command),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert watching.stdout is not None
    async with asyncio.timeout(20):
        lines = [json.loads(await watching.stdout.readline()) for _ in range(2)]
        watching.send_signal(2)
        _, errors = await watching.communicate()

    assert [set(line) for line in lines] == [{"connections", "answered", "workers"}] * 2
    assert watching.returncode == 130
    assert errors == b""


def test_admin_token_is_taken_from_the_environment(
    start_broker: StartBroker, shared_redis: EmbeddedServer, tmp_path: Path
) -> None:
    """Without it the answer says what to set."""
    broker = start_broker(shared_redis.url, admin_token=TOKEN)
    run = at(broker, tmp_path)
    without = run("sessions", "ada")
    wrong = run("sessions", "ada", BROKER_ADMIN_TOKEN="wrong")
    right = run("sessions", "ada", BROKER_ADMIN_TOKEN=TOKEN)

    assert (without.returncode, wrong.returncode, right.returncode) == (1, 1, 0)
    assert without.stderr == (
        "a valid token is needed (unauthorized); set BROKER_ADMIN_TOKEN\n"
    )
    assert TOKEN not in broker.log.text


def test_without_a_broker_there_is_one_sentence(
    shared_broker: BrokerServer, tmp_path: Path
) -> None:
    """Nobody there is status 1; somebody else there is said to be so."""
    run = at(shared_broker, tmp_path)
    nobody = run("top", "--admin-url", "http://127.0.0.1:1")
    host, port = shared_broker.public
    other = run("top", "--admin-url", f"http://{host}:{port}/x")
    name = run("top", "--admin-url", "localhost:1")

    assert nobody.returncode == 1
    assert nobody.stderr == (
        "http://127.0.0.1:1: nobody answers there (Connection refused); "
        "is the broker running?\n"
    )
    assert (other.returncode, len(other.stderr.splitlines())) == (1, 1)
    assert name.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (("revoke",), 2, "either --user or --token-id"),
        (("revoke", "--user", "a", "--token-id", "b"), 2, "either --user or"),
        (("revoke", "--user", "a", "--ttl", "-1"), 1, "bad_request"),
        (("revoke", "--user", "nobody", "--undo"), 1, "not_found"),
        (("top", "--limit", "0"), 1, "limit is a number"),
        (("sessions", "a\nb"), 1, "printable text"),
        (("evict", "ada", "../x"), 1, "session name"),
        (("key", "--user", "a", "--rights", "fly"), 2, "rights has a text"),
        (("key", "--user", "a", "--rights", "admin", "--sessions", "*x"), 2, "neither"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_done_is_one_sentence(
    operator: Run, arguments: tuple[str, ...], status: int, why: str
) -> None:
    """Whether this side finds it or the other."""
    done = operator(*arguments)

    assert done.returncode == status
    assert why in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        (("sessions", "\udcff"), 2),
        (("revoke", "--user", "\udcff"), 3),
        (("revoke", "--token-id", "\udcff", "--undo"), 3),
        (("top", "--admin-url", "http://\udcff"), 3),
        (("publish", "s", "\udcff"), 3),
        (("tail", "s", "--user", "\udcff"), 4),
        (("\udcff",), 1),
    ],
    ids=ascii,
)
def test_bytes_that_are_no_text_are_wrong_usage(
    operator: Run, arguments: tuple[str, ...], number: int
) -> None:
    """Neither a URL nor Redis takes them; which argument it is gets said."""
    done = operator(*arguments)

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"Error: argument {number} is not UTF-8"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://[", 2),
        ("http://x:99999", 2),
        ("http://x:abc", 2),
        ("http://\u202ea:1", 2),
        ("http://ada:pw@127.0.0.1:1", 1),
        ("http://a..b:1", 1),
        (f"http://{'a' * 70}:1", 1),
    ],
)
def test_url_that_is_none_is_one_sentence(operator: Run, url: str, status: int) -> None:
    """What is wrong with it is seen here, or when its name is looked for."""
    done = operator("top", "--admin-url", url, BROKER_ADMIN_TOKEN=TOKEN)

    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert ("--admin-url must look like" in done.stderr) == (status == 2)


async def test_key_opens_a_broker_and_tail_reads_with_it(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    author: Author,
    tmp_path: Path,
    operator: Run,
    session: str,
) -> None:
    """What is printed works as it stands; BROKER_TOKEN is where tail looks for it."""
    made = operator(
        *("key", "--user", "ada", "--rights", "subscribe"), "--sessions", session
    )
    key, record = made.stdout.splitlines()
    broker = start_broker(shared_redis.url, auth="api_key", api_keys=f"[{record}]")
    await author.publish(session, 2)
    run = at(broker, tmp_path)
    tail = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker", "tail", session, "--from", "0"),
        cwd=tmp_path,
        env=environment_of(broker, tmp_path) | {"BROKER_TOKEN": key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert tail.stdout is not None
    async with asyncio.timeout(20):
        lines = [json.loads(await tail.stdout.readline()) for _ in range(2)]
        tail.send_signal(2)
        await tail.communicate()
    refused = await asyncio.to_thread(run, "tail", session, BROKER_TOKEN="bk_wrong")

    assert [line["seq"] for line in lines] == [1, 2]
    assert refused.returncode == 1
    assert "4501" in refused.stderr
    assert key not in broker.log.text


async def test_tail_says_who_it_is(
    broker: BrokerServer, tmp_path: Path, session: str
) -> None:
    """Where no token is asked for, --user is the user of the connection."""
    url = f"http://{broker.public[0]}:{broker.public[1]}"
    tail = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker", "tail", session, "--all"),
        *("--url", url, "--user", "ada"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert tail.stdout is not None
    async with asyncio.timeout(20):
        welcome = json.loads(await tail.stdout.readline())
        tail.send_signal(2)
        await tail.communicate()

    assert welcome["data"]["user"] == "ada"


def test_running_dev_broker_is_found(
    shared_broker: BrokerServer, tmp_path: Path
) -> None:
    """Without settings the verbs mean the broker that runs on this machine."""
    host, port = shared_broker.admin
    state = {"pid": os.getpid(), "redis_url": "", "event_stream": "", "url": ""}
    state["admin"] = f"http://{host}:{port}"
    (tmp_path / f"broker-dev-{os.getuid()}.json").write_text(json.dumps(state))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("BROKER_")}
    done = subprocess.run(
        [sys.executable, "-m", "broker", "sessions", "nobody-here"],
        cwd=tmp_path,
        env=kept | {"XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.stdout == "no sessions of nobody-here\n"
