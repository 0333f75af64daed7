"""Who may use the server API, and what it does when it is asked too much or wrongly."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time

import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import RedisAt, StartRedis
from tests.harness.http import Response
from tests.integration.supervisor.conftest import Client, StartApi, keyring
from tests.integration.supervisor.pod import NOBODY, eventually, running_pod

LIST = "/v1/revocations"
SECRET = "an-operators-token"
DEEP = b'{"event":"e","data":' + b"[" * 20_000


def problem(answer: Response) -> tuple[int, str]:
    """Status and code of a failure."""
    body = answer.json()
    assert set(body["error"]) == {"code", "message"}
    assert body["error"]["message"]
    return answer.status, body["error"]["code"]


async def ask_raw(port: int, text: bytes) -> bytes:
    """Everything that comes back for *text*."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()


async def test_on_loopback_nobody_is_asked_for_a_token(api: Client) -> None:
    """A developer's own machine needs no set-up."""
    answer = await api.ask("GET", LIST)

    assert answer.status == 200
    assert isinstance(answer.json()["revocations"], list)


async def test_elsewhere_the_api_is_off_without_a_token(start_api: StartApi) -> None:
    """The refusal says which setting opens it; health stays open."""
    api = await start_api(admin_host="0.0.0.0")
    answer = await api.ask("GET", LIST)
    health = await api.ask("GET", "/healthz")

    assert problem(answer) == (403, "forbidden")
    assert "BROKER_ADMIN_TOKEN" in answer.json()["error"]["message"]
    assert health.status == 200


async def test_admin_open_leaves_it_to_the_network(start_api: StartApi) -> None:
    """Behind a network policy the API answers without a token, to any name."""
    api = await start_api(admin_host="0.0.0.0", admin_open=True)
    answer = await api.ask("GET", LIST, Host="broker-admin.apps.svc:9090")

    assert answer.status == 200


@pytest.mark.parametrize("token", ["", "wrong", SECRET + "x", SECRET[:-1], "ä"])
async def test_admin_token_is_needed_once_it_is_set(
    start_api: StartApi, token: str
) -> None:
    """On loopback as well: whoever set it wants it to be asked for."""
    api = await start_api(admin_token=SECRET)
    wrong = await api.ask("GET", LIST, token=token)
    right = await api.ask("GET", LIST, token=SECRET)

    assert problem(wrong) == (401, "unauthorized")
    assert wrong.headers["www-authenticate"] == "Bearer"
    assert right.status == 200


@pytest.mark.parametrize("token", ["", SECRET])
@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1", "null"])
async def test_web_pages_are_refused(
    start_api: StartApi, origin: str, token: str
) -> None:
    """A page of any site can reach a port on loopback, with whatever it knows."""
    api = await start_api(admin_token=token)
    answer = await api.ask("POST", LIST, {"user": "ada"}, token=token, Origin=origin)

    assert problem(answer) == (403, "forbidden")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "same-origin"])
async def test_images_of_web_pages_are_refused(api: Client, site: str) -> None:
    """A page can ask without an Origin, though not read the answer."""
    answer = await api.ask("GET", "/v1/connections", Sec_Fetch_Site=site)
    typed = await api.ask("GET", "/v1/connections", Sec_Fetch_Site="none")

    assert problem(answer) == (403, "forbidden")
    assert typed.status == 200


async def test_rebound_pages_are_refused_also_where_it_is_open(
    start_api: StartApi,
) -> None:
    """Any name is served there, but not to a page that thinks it is from here."""
    api = await start_api(admin_host="0.0.0.0", admin_open=True)
    answer = await api.ask(
        "GET", LIST, Host="evil.example", Sec_Fetch_Site="same-origin"
    )

    assert problem(answer) == (403, "forbidden")


@pytest.mark.parametrize("host", ["evil.example:9090", "evil.example", "10.0.0.1", ""])
async def test_foreign_host_is_refused_without_a_token(api: Client, host: str) -> None:
    """A name that was rebound to this machine still shows in the Host header."""
    answer = await api.ask("GET", LIST, Host=host)

    assert problem(answer) == (403, "forbidden")


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:9", "a.localhost"])
async def test_own_names_are_served_without_a_token(api: Client, host: str) -> None:
    """Whatever a person types to reach the own machine works."""
    assert (await api.ask("GET", LIST, Host=host)).status == 200


async def test_foreign_host_does_not_matter_with_a_token(start_api: StartApi) -> None:
    """No page knows the token."""
    api = await start_api(admin_token=SECRET)
    answer = await api.ask("GET", LIST, token=SECRET, Host="broker-admin:9090")

    assert answer.status == 200


async def test_rights_of_a_key_are_the_rights_here(start_api: StartApi) -> None:
    """Admin may do everything, publish only that and only there, others nothing."""
    keys, known = keyring(
        boss=(["admin"], []),
        writer=(["publish"], ["room-*"]),
        reader=(["subscribe", "command"], ["*"]),
    )
    api = await start_api(
        auth="api_key", api_keys=known, admin_token=SECRET, admin_host="0.0.0.0"
    )

    async def outcome(user: str, path: str, method: str = "GET") -> int:
        body = {"event": "e"} if method == "POST" else None
        return (await api.ask(method, path, body, token=keys[user])).status

    assert await outcome("boss", LIST) == 200
    assert await outcome("boss", "/v1/sessions/x/events", "POST") == 201
    assert await outcome("writer", "/v1/sessions/room-1/events", "POST") == 201
    assert await outcome("writer", "/v1/sessions/x/events", "POST") == 403
    assert await outcome("writer", "/v1/sessions/room-1/events") == 403
    assert await outcome("writer", LIST) == 403
    assert await outcome("reader", "/v1/sessions/x/events", "POST") == 403
    assert await outcome("reader", LIST) == 403


async def test_unknown_key_is_refused_also_on_loopback(start_api: StartApi) -> None:
    """Who shows a token is judged by it, even where none is needed."""
    _keys, known = keyring(boss=(["admin"], []))
    api = await start_api(auth="api_key", api_keys=known)
    wrong = await api.ask("GET", LIST, token="bk_unknown")
    without = await api.ask("GET", LIST)

    assert problem(wrong) == (401, "unauthorized")
    assert without.status == 200


@pytest.mark.parametrize(
    ("what", "path"),
    [
        ({"user": "boss"}, "/user/boss"),
        ({"token_id": "key-of-boss"}, "/token/key-of-boss"),
    ],
)
async def test_revoked_key_is_refused_within_a_second(
    start_api: StartApi, what: dict[str, str], path: str
) -> None:
    """Revoking counts on the admin port too; the operator's own token stays."""
    keys, known = keyring(boss=(["admin"], []))
    api = await start_api(auth="api_key", api_keys=known, admin_token=SECRET)
    before = await api.ask("GET", LIST, token=keys["boss"])
    await api.ask("POST", LIST, what, token=SECRET)

    async def is_refused() -> bool:
        answer = await api.ask("GET", LIST, token=keys["boss"])
        return answer.status == 401 and answer.json()["error"]["code"] == "revoked"

    await eventually(is_refused, within_s=1)
    pardoned = await api.ask("DELETE", LIST + path, token=SECRET)

    assert before.status == 200
    assert pardoned.status == 204


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("PUT", LIST, 405, "method_not_allowed"),
        ("GET", "/v1/sessions/_probe/events", 400, "bad_request"),
        ("GET", "/v1/sessions/a%2Fb", 400, "bad_request"),
        ("GET", "/v1/sessions/s/events?limit=0", 400, "bad_request"),
        ("GET", "/v1/connections?limit=x", 400, "bad_request"),
        ("GET", "/v1/users/a%0Ab/sessions", 400, "bad_request"),
        ("POST", f"/v1/users/{'u' * 257}/disconnect", 400, "bad_request"),
    ],
)
async def test_what_cannot_be_asked_is_refused(
    api: Client, method: str, path: str, status: int, code: str
) -> None:
    """Always in the same form, whoever found it."""
    assert problem(await api.ask(method, path)) == (status, code)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"event":1}',
        b'{"event":""}',
        b'{"event":"e","evnt":"x"}',
        b'{"event":"\xff"}',
        pytest.param(DEEP, id="cut-off"),
        pytest.param(DEEP + b"]" * 20_000 + b"}", id="deep"),
    ],
)
async def test_bad_bodies_are_refused(api: Client, body: bytes) -> None:
    """A sentence says what is wrong, and the next request is served."""
    answer = await api.ask("POST", "/v1/sessions/s/events", body)
    after = await api.ask("GET", LIST)

    assert problem(answer)[0] == 400
    assert after.status == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/sessions/s/events", b'{"event":"e","data":"%b"}' % (b"x" * 70_000)),
        ("/v1/sessions/s/events", b'{"event":"e","data":"%b"}' % (b"x" * 10_000_000)),
        (LIST, b'{"user":"%b"}' % (b"x" * 70_000)),
    ],
    ids=["event", "body", "other"],
)
async def test_what_is_too_large_is_refused(
    start_api: StartApi, path: str, body: bytes
) -> None:
    """What cannot become an event is not read to its end."""
    api = await start_api(max_event_bytes="64KiB")
    answer = await api.ask("POST", path, body)

    assert problem(answer) == (413, "too_large")


async def test_body_that_does_not_come_is_not_waited_for(
    api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place among the requests under way is not held by silence."""
    monkeypatch.setattr("broker.supervisor.api.gate.BODY_S", 0.1)
    head = b"POST /v1/revocations HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    answer = await ask_raw(api.port, head + b"Content-Length: 9\r\n\r\n{")

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"timeout"' in answer


async def test_too_many_requests_at_once_are_refused(
    api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those over the bound are told when to come back, and health is still answered."""
    monkeypatch.setattr("broker.supervisor.api.gate.IN_FLIGHT_MAX", 0)
    answer = await api.ask("GET", LIST)
    health = await api.ask("GET", "/healthz")

    assert problem(answer) == (503, "overloaded")
    assert int(answer.headers["retry-after"]) > 0
    assert health.status == 200


async def test_place_is_given_back_however_a_request_ends(
    api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for one request, any number can be made in turn."""
    monkeypatch.setattr("broker.supervisor.api.gate.IN_FLIGHT_MAX", 1)
    statuses = [
        (await api.ask("POST", LIST, body)).status for body in (b"{", b"{}", b"x", b"")
    ]
    good = await api.ask("GET", LIST)

    assert statuses == [400, 400, 400, 400]
    assert good.status == 200


@pytest.mark.parametrize("where", ["header", "line", "url"])
async def test_malformed_request_is_not_repeated(
    start_api: StartApi, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """The parser's own complaints quote the request, and so its token."""
    api = await start_api(admin_token=SECRET)
    canary = f"canary{secrets.token_hex(12)}"
    token = b"Authorization: Bearer " + canary.encode()
    text = {
        "header": b"GET /v1/x HTTP/1.1\r\nHost: a\r\n" + token + b"\x00\r\n\r\n",
        "line": token + b" HTTP/1.1\r\n\r\n",
        "url": b"GET /" + canary.encode() + b"x" * 9000 + b" HTTP/1.1\r\n\r\n",
    }
    answer = await ask_raw(api.port, text[where])

    assert b" 400 Bad Request\r\n" in answer
    assert canary.encode() not in answer
    assert canary not in caplog.text


async def test_redis_that_was_never_there_is_503(start_api: StartApi) -> None:
    """At once, for everything that needs it; the document does not."""
    api = await start_api(NOBODY, connected=False)
    paths = (LIST, "/v1/sessions/s", "/v1/sessions/s/events", "/v1/connections")
    begun = time.monotonic()
    answers = [await api.ask("GET", path) for path in paths]
    event = await api.ask("POST", "/v1/sessions/s/events", {"event": "e"})
    took_s = time.monotonic() - begun
    described = await api.ask("GET", "/openapi.json")

    assert [problem(one) for one in (*answers, event)] == [(503, "unavailable")] * 5
    assert int(event.headers["retry-after"]) > 0
    assert took_s < 5
    assert described.status == 200


async def test_redis_that_answers_no_more_is_503_in_time(
    start_api: StartApi, start_redis: StartRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs costs one request a bounded time."""
    monkeypatch.setattr("broker.supervisor.api.server.REDIS_S", 0.3)
    server = start_redis()
    assert server.pid is not None
    api = await start_api(server.url)

    async def answers() -> bool:
        return (await api.ask("GET", LIST)).status == 200

    os.kill(server.pid, signal.SIGSTOP)
    begun = time.monotonic()
    stalled = await api.ask("GET", LIST)
    took_s = time.monotonic() - begun
    os.kill(server.pid, signal.SIGCONT)
    await eventually(answers)

    assert problem(stalled) == (503, "unavailable")
    assert took_s < 5


async def test_flushed_scripts_are_loaded_again(
    start_api: StartApi, start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """Somebody's SCRIPT FLUSH costs at most one answer."""
    server = start_redis()
    api = await start_api(server.url)

    async def revokes() -> bool:
        return (await api.ask("POST", LIST, {"user": "x"})).status == 201

    await redis_at(server.url).script_flush()
    first = await api.ask("POST", LIST, {"user": "x"})

    assert problem(first) == (503, "unavailable")
    await eventually(revokes, within_s=2)


async def test_whole_pod_serves_the_api_and_outlives_redis(
    start_redis: StartRedis,
) -> None:
    """Without Redis the API says so, while health and metrics go on."""
    server = start_redis()
    async with running_pod({"redis_url": server.url}) as pod:

        async def is_up() -> bool:
            return (await pod.ask(LIST)).status == 200

        await eventually(is_up)
        server.stop()
        away = await pod.ask(LIST)
        metrics = await pod.ask("/metrics")
        health = await pod.ask("/healthz")
        pod.signal(signal.SIGTERM)
        ended = await pod.ended()

    assert problem(away) == (503, "unavailable")
    assert (metrics.status, health.status) == (200, 200)
    assert ended == 0


async def test_pod_with_keys_that_cannot_be_used_does_not_start(
    shared_redis: EmbeddedServer,
) -> None:
    """The supervisor judges keys as well: it says so before it starts anything."""
    settings = {"redis_url": shared_redis.url, "auth": "api_key", "api_keys": "[]"}
    async with running_pod(settings) as pod:
        assert await pod.ended() != 0
        assert not any(line.get("event") == "child_started" for line in pod.lines)
