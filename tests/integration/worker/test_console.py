"""The console's HTTP side: its files, and publishing through it, with a real Redis."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from redis.asyncio import Redis
from yarl import URL

from broker.config import Settings, load_settings
from broker.control.authenticator import Authenticator
from broker.control.identity import Identity, Unauthorized, everybody
from broker.errors import StoreUnavailable
from broker.store.client import DEFAULT_MAX_LEN
from broker.store.connection import Command, Connection
from broker.store.embedded import EmbeddedServer
from broker.worker import console as module
from broker.worker.console import Console, read_files
from broker.worker.handshake import Refusal
from tests.harness.client import Address
from tests.harness.http import Response, request
from tests.harness.publisher import key_of
from tests.harness.tokens import SECRET, token

MAX_EVENT_BYTES = 2048


class Door:
    """Knows tokens as a worker does."""

    def __init__(self, settings: Settings) -> None:
        self._authenticator = Authenticator(settings)
        self._is_open = settings.auth == "none"

    async def identify(self, token: str | None, user: str) -> Identity:
        if self._is_open:
            return everybody(user)
        if token is None:
            raise Refusal("unauthorized")
        try:
            return await self._authenticator.identify(token)
        except Unauthorized as error:
            raise Refusal(error.code) from None


class Front:
    """A console behind a server that answers refusals as the worker's does."""

    def __init__(self, connection: Connection, **given: str) -> None:
        named = {f"BROKER_{name.upper()}": value for name, value in given.items()}
        named["BROKER_MAX_EVENT_BYTES"] = str(MAX_EVENT_BYTES)
        settings = load_settings(named, env_file=None)
        self._connection = connection
        self.console = Console(settings, Door(settings), self.add, "demo")
        self.address: Address = ("", 0)
        self._runner = web.ServerRunner(web.Server(self._answer))

    async def add(self, command: Command) -> str:
        added: bytes = await self._connection.call(*command)
        return added.decode()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.path.startswith("/console")
        try:
            return await self.console.handle(request, request.path.split("/")[2:])
        except Refusal as refusal:
            body = {"code": refusal.reason, "message": refusal.message}
            return web.Response(
                status=refusal.status,
                body=orjson.dumps({"error": body}),
                content_type="application/json",
                headers=refusal.headers,
            )

    async def start(self) -> None:
        await self._runner.setup()
        listening = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(self._runner, listening).start()
        self.address = listening.getsockname()

    async def stop(self) -> None:
        await self._runner.cleanup()

    @property
    def origin(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    async def get(self, path: str, **headers: str) -> Response:
        """One GET whose path is sent as it stands; redirects are answers."""
        url = URL(self.origin + path, encoded=True)
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, headers=headers, allow_redirects=False) as response,
        ):
            names = {name.lower(): value for name, value in response.headers.items()}
            return Response(response.status, names, await response.read())

    async def publish(
        self, body: object, headers: dict[str, str] | None = None
    ) -> Response:
        path = "/console/publish"
        return await request("POST", self.address, path, body=body, headers=headers)

    async def post(self, body: bytes, headers: dict[str, str], size: int) -> bytes:
        """Publish *body*, said to have *size* bytes; the head of the answer."""
        lines = {
            "Host": "x",
            "Content-Type": "application/json",
            "Content-Length": str(size),
        }
        head = "".join(f"{k}: {v}\r\n" for k, v in (lines | headers).items())
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(f"POST /console/publish HTTP/1.1\r\n{head}\r\n".encode())
            writer.write(body)
            return await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.transport.abort()


StartFront = Callable[..., Awaitable[Front]]


@pytest.fixture
async def start_front(shared_redis: EmbeddedServer) -> AsyncIterator[StartFront]:
    """Start consoles; keywords are settings in lower case."""
    connection = await Connection.open(shared_redis.url, client_name="console-test")
    fronts: list[Front] = []

    async def start(**settings: str) -> Front:
        fronts.append(Front(connection, **settings))
        await fronts[-1].start()
        return fronts[-1]

    yield start
    for front in fronts:
        await front.stop()
    connection.close()


@pytest.fixture
async def front(start_front: StartFront) -> Front:
    """A console where nobody is asked for a token."""
    return await start_front()


@pytest.fixture
async def guarded(start_front: StartFront) -> Front:
    """A console of a broker that asks for tokens."""
    return await start_front(auth="jwt", jwt_secret=SECRET)


def bearer(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(**claims)}"}


async def entries(redis: Redis, session: str) -> list[dict[bytes, bytes]]:
    found: Any = await redis.xrange(key_of(session))
    return [fields for _id, fields in found]


# The page.


async def test_the_page_is_served_below_its_folder(front: Front) -> None:
    """`/console/` is the page, with the type and the policy that browsers obey."""
    answer = await front.get("/console/")
    assert answer.status == 200
    assert answer.body == (module.WEB / "console.html").read_bytes()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_page_may_load_nothing_from_elsewhere(front: Front) -> None:
    """The policy names this host alone, and no inline code."""
    answer = await front.get("/console/")
    host = front.origin.removeprefix("http://")
    rules = answer.headers["content-security-policy"].split("; ")
    assert rules == [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src data: 'self'",
        f"connect-src 'self' ws://{host} wss://{host}",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]


async def test_a_host_that_is_none_gets_into_no_policy(front: Front) -> None:
    """What a client sends as Host cannot add a rule."""
    answer = await front.get("/console/", Host="a; script-src *")
    assert "connect-src 'self';" in answer.headers["content-security-policy"]


async def test_without_the_slash_there_is_a_relative_redirect(front: Front) -> None:
    """It works below any prefix, since it names none."""
    answer = await front.get("/console")
    assert (answer.status, answer.headers["location"]) == (307, "console/")


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("console.css", "text/css; charset=utf-8"),
        ("console/app.js", "text/javascript; charset=utf-8"),
        ("client.js", "text/javascript; charset=utf-8"),
    ],
)
async def test_each_file_has_its_type(
    front: Front, path: str, content_type: str
) -> None:
    """A browser runs no module, and with nosniff no style, of another type."""
    answer = await front.get(f"/console/{path}")
    assert answer.status == 200
    assert answer.headers["content-type"] == content_type


async def test_a_file_that_is_known_is_not_sent_again(front: Front) -> None:
    """If-None-Match with the tag of the file is answered 304, without a body."""
    first = await front.get("/console/console.css")
    again = await front.get(
        "/console/console.css", **{"If-None-Match": first.headers["etag"]}
    )
    assert (again.status, again.body) == (304, b"")
    other = await front.get("/console/console.css", **{"If-None-Match": '"x"'})
    assert other.status == 200


@pytest.mark.parametrize(
    "path",
    [
        "..%2f__init__.py",
        "%2e%2e/%2e%2e/pyproject.toml",
        "console/..%2f..%2fworker/console.py",
        "%2fetc%2fpasswd",
        "console/",
        "client.d.ts",
        "nothing.js",
    ],
)
async def test_nothing_but_the_table_is_served(front: Front, path: str) -> None:
    """A path is looked up among the known ones, so none leads out of the folder."""
    assert (await front.get(f"/console/{path}")).status == 404


async def test_only_reading_methods_get_files(front: Front) -> None:
    """Another method is refused, with those that work."""
    answer = await request("DELETE", front.address, "/console/")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_head_has_no_body(front: Front) -> None:
    """HEAD is answered like GET, without the file."""
    answer = await request("HEAD", front.address, "/console/")
    assert (answer.status, answer.body) == (200, b"")


async def test_the_settings_that_a_page_needs_hold_no_secret(guarded: Front) -> None:
    """The page learns that a token is needed, and nothing about how it is checked."""
    answer = await guarded.get("/console/config.json")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "auth": "token",
        "session": "demo",
        "max_sessions_per_user": 3,
        "max_event_bytes": MAX_EVENT_BYTES,
        "max_replay_entries": 10_000,
        "heartbeat_s": 25.0,
        "presence": True,
    }


def test_the_files_come_from_one_folder_only(tmp_path: Path) -> None:
    """What lies beside them, such as examples, is not for the console."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "page.html").write_text("<p>")
    (tmp_path / "client.js").write_text("export {}")
    assert set(read_files(tmp_path)) == {"client.js"}


# Publishing.


async def test_what_is_published_is_an_entry_of_the_stream(
    front: Front, redis: Redis, session: str
) -> None:
    """The answer is the id of the entry, and data arrives byte for byte."""
    body = {"session": session, "event": "note", "data": {"a": [1, 2]}}
    answer = await front.publish(body | {"node_id": "n", "transient": True})
    found: Any = await redis.xrange(key_of(session))
    (entry_id, fields) = found[0]
    assert (answer.status, answer.json()) == (200, {"id": entry_id.decode()})
    assert fields == {
        b"event": b"note",
        b"data": b'{"a": [1, 2]}',
        b"node_id": b"n",
        b"transient": b"1",
    }


async def test_a_stream_is_kept_as_long_as_by_the_server_api(
    front: Front, redis: Redis, session: str
) -> None:
    """Both trim to about the same length, so neither cuts what the other kept."""
    assert module.MAX_LEN == DEFAULT_MAX_LEN
    many: Any = redis.pipeline(transaction=False)
    for _ in range(DEFAULT_MAX_LEN + 500):
        many.xadd(key_of(session), {"event": "old"})
    await many.execute()
    await front.publish({"session": session, "event": "new"})
    length = await redis.xlen(key_of(session))
    assert DEFAULT_MAX_LEN <= length < DEFAULT_MAX_LEN + 200


async def test_a_page_of_another_site_cannot_publish(
    front: Front, redis: Redis, session: str
) -> None:
    """Its Origin gives it away, whatever else it sends."""
    body = {"session": session, "event": "note"}
    answer = await front.publish(body, {"Origin": "https://elsewhere.example"})
    assert answer.status == 403
    assert (await front.publish(body, {"Origin": front.origin})).status == 200
    assert len(await entries(redis, session)) == 1


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data"])
async def test_a_form_cannot_publish(
    front: Front, session: str, content_type: str
) -> None:
    """The types that a page may send anywhere without asking are not taken."""
    body = {"session": session, "event": "note"}
    answer = await front.publish(body, {"Content-Type": content_type})
    assert answer.status == 415


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"rights": ["publish"], "sessions": ["*"]}, 200),
        ({"rights": ["publish"], "sessions": ["other"]}, 403),
        ({"rights": ["subscribe", "command", "admin"], "sessions": ["*"]}, 403),
        ({"rights": ["publish"], "sessions": ["*"], "lives_s": -60}, 401),
    ],
)
async def test_publishing_needs_the_right_for_the_session(
    guarded: Front, session: str, claims: dict[str, Any], status: int
) -> None:
    """No other right contains it, and it reaches as far as the token says."""
    body = {"session": session, "event": "note"}
    assert (await guarded.publish(body, bearer(**claims))).status == status


async def test_without_a_token_nothing_is_published(
    guarded: Front, session: str
) -> None:
    """Where tokens are asked for, nobody publishes without one."""
    answer = await guarded.publish({"session": session, "event": "note"})
    assert (answer.status, answer.json()["error"]["code"]) == (401, "unauthorized")


async def test_a_token_in_the_url_is_refused(guarded: Front, session: str) -> None:
    """URLs end up in logs."""
    answer = await request(
        "POST",
        guarded.address,
        "/console/publish",
        query={"token": token(rights=["publish"])},
        body={"session": session, "event": "note"},
    )
    assert answer.status == 400


async def test_who_may_not_publish_makes_nobody_read_a_body(guarded: Front) -> None:
    """It is refused although the body never comes."""
    headers = bearer(rights=["subscribe"])
    async with asyncio.timeout(module.BODY_S - 1):
        assert b" 403 " in await guarded.post(b"", headers, 100)


async def test_a_body_is_read_up_to_a_bound_only(front: Front, session: str) -> None:
    """However it is filled, and whatever it would say."""
    event = orjson.dumps({"session": session, "event": "note"})
    body = event + b" " * (MAX_EVENT_BYTES + module.NAMES_BYTES)
    assert b" 413 " in await front.post(body, {}, len(body))


async def test_a_body_that_does_not_come_is_given_up(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes one of few places as long as it is waited for."""
    monkeypatch.setattr(module, "BODY_S", 0.05)
    async with asyncio.timeout(4):
        assert b" 408 " in await front.post(b"{", {}, 100)


async def test_more_bodies_at_once_than_there_is_room_for_are_refused(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may be as large as an event, so they are few."""
    monkeypatch.setattr(module, "IN_FLIGHT_MAX", 1)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(front.post(b"{", {}, 2))
        second = tasks.create_task(front.post(b"{", {}, 2))
        done, waiting = await asyncio.wait(
            (first, second), return_when=asyncio.FIRST_COMPLETED
        )
        assert b" 429 " in done.pop().result()
        waiting.pop().cancel()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"event": ""}, 400),
        ({"event": "x" * 1025}, 400),
        ({"node_id": "x" * 1025}, 400),
        ({"session": "_broker"}, 400),
        ({"session": "a b"}, 400),
        ({"sesion": "typo"}, 400),
        ({"data": "x" * MAX_EVENT_BYTES}, 413),
    ],
)
async def test_what_readers_would_skip_is_refused(
    front: Front, redis: Redis, session: str, change: dict[str, str], status: int
) -> None:
    """An event that breaks the contract gets no place in the log."""
    answer = await front.publish({"session": session, "event": "note"} | change)
    assert answer.status == status
    assert await entries(redis, session) == []


async def test_a_key_that_is_no_stream_is_not_written(
    front: Front, redis: Redis, session: str
) -> None:
    """Redis' refusal is an answer, not a fault."""
    await redis.set(key_of(session), "text")
    answer = await front.publish({"session": session, "event": "note"})
    assert (answer.status, answer.json()["error"]["code"]) == (404, "not_found")


async def test_an_outage_is_told(
    front: Front, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Redis is away the answer is 503, with a time to come back."""

    async def away(_: Command) -> str:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(front.console, "_add", away)
    answer = await front.publish({"session": session, "event": "note"})
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1


async def test_publishing_takes_post_only(front: Front) -> None:
    """A link or an image cannot publish."""
    answer = await front.get("/console/publish")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
