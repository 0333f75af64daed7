"""What a request asks for, or why it is refused."""

from __future__ import annotations

import pytest
from aiohttp import hdrs, web
from aiohttp.test_utils import make_mocked_request

from broker.config import load_settings
from broker.worker.channels import Overflow, Start, StartAt
from broker.worker.handshake import Refusal, Wanted, check_origin, read_request
from broker.worker.starting import Reading


def read(query: str = "", session: str = "s1", **headers: str) -> Wanted:
    return read_request(
        request(query, **headers), session, load_settings({}, env_file=None)
    )


def request(query: str = "", **headers: str) -> web.Request:
    named = {"Host": "localhost:8080"} | headers
    return make_mocked_request(hdrs.METH_GET, f"/v1/ws/s1{query}", headers=named)


def test_everything_of_the_query_is_read() -> None:
    """Session, user, start and overflow."""
    wanted = read("?user=ann&last_event_id=-5&overflow=drop")
    start = Start(at=StartAt.LAST_N, count=5)
    reading = Reading(start=start, overflow=Overflow.DROP)
    assert wanted == Wanted(session="s1", user="ann", reading=reading)


@pytest.mark.parametrize(
    "query",
    ["", "?unknown=1", "?user=&since=&overflow=&consumer=&ack=&presence=&takeover="],
)
def test_what_is_not_asked_for_is_as_by_default(query: str) -> None:
    """No query at all, unknown words and empty values are the same."""
    assert read(query) == Wanted(session="s1")


@pytest.mark.parametrize(
    ("query", "session"),
    [
        ("", "_probe"),
        ("", "a b"),
        ("", "x" * 129),
        ("?last_event_id=x", "s1"),
        ("?since=x", "s1"),
        ("?overflow=x", "s1"),
        (f"?user={'u' * 257}", "s1"),
        ("?user=a%0Ab", "s1"),
        ("?consumer=a/b", "s1"),
        (f"?consumer={'c' * 65}", "s1"),
        ("?ack=auto", "s1"),
        ("?consumer=c&ack=x", "s1"),
        ("?presence=x", "s1"),
        ("?takeover=x", "s1"),
    ],
)
def test_what_cannot_be_used_is_refused(query: str, session: str) -> None:
    """With 400, and without repeating a word of the request."""
    with pytest.raises(Refusal) as caught:
        read(query, session)
    assert caught.value.status == 400
    assert not caught.value.temporary
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ("", None, True),
        ("", "http://localhost:8080", True),
        ("", "https://LOCALHOST:8080", True),
        ("", "http://evil.example", False),
        ("", "null", False),
        ("https://app.example", "https://app.example", True),
        ("https://app.example", "https://APP.example", True),
        ("https://app.example", "http://app.example", False),
        ("https://app.example", "http://broker.example:8080", False),
        ("*", "http://evil.example", True),
    ],
)
def test_pages_of_other_sites_are_refused(
    origins: str, origin: str | None, *, allowed: bool
) -> None:
    """Same host without a list, the list where there is one."""
    given = {"BROKER_ORIGINS": origins, "BROKER_ALLOW_INSECURE": "true"}
    settings = load_settings(given, env_file=None)
    asked = request(**({"Origin": origin} if origin is not None else {}))
    if allowed:
        check_origin(asked, settings)
    else:
        with pytest.raises(Refusal) as caught:
            check_origin(asked, settings)
        assert caught.value.status == 403


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost:8080", True),
        ("app.localhost:8080", True),
        ("127.0.0.1:8080", True),
        ("[::1]:8080", True),
        ("broker.example:8080", False),
        ("localhost.evil.example", False),
    ],
)
def test_where_nobody_is_asked_only_local_names_are_this_host(
    host: str, *, allowed: bool
) -> None:
    """A page whose name was made to lead to loopback has the same host, too."""
    settings = load_settings({}, env_file=None)
    for origin in ({"Origin": f"http://{host}"}, {}):
        asked = request(Host=host, **origin)
        if allowed:
            check_origin(asked, settings)
        else:
            with pytest.raises(Refusal):
                check_origin(asked, settings)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("too_many_connections_per_user", 429),
        ("too_many_connections", 503),
        ("accept_rate", 503),
        ("memory", 503),
        ("unavailable", 503),
        ("draining", 503),
    ],
)
def test_temporary_refusals_say_when_to_come_back(reason: str, status: int) -> None:
    """Spread, so that not all come back at once."""
    refusals = [Refusal(reason) for _ in range(50)]
    assert {refusal.status for refusal in refusals} == {status}
    assert all(refusal.temporary for refusal in refusals)
    assert len({refusal.headers[hdrs.RETRY_AFTER] for refusal in refusals}) > 1
