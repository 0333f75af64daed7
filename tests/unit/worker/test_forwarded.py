"""Whose word counts for who a client is, and what is made of it."""

from __future__ import annotations

import pytest
from aiohttp import hdrs, web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from broker.config import Settings, load_settings
from broker.errors import ConfigError
from broker.worker.forwarded import HOPS_MAX, Forwarded

PROXIES = "10.0.0.0/8, 192.0.2.1, 2001:db8::/32"


def settings(proxies: str, **more: str) -> Settings:
    given = {"BROKER_TRUSTED_PROXIES": proxies, "BROKER_ALLOW_INSECURE": "true"}
    return load_settings(given | more, env_file=None)


def request(peer: str, *headers: tuple[str, str]) -> web.BaseRequest:
    made = make_mocked_request(
        hdrs.METH_GET, "/v1/ws/s1?since=x", headers=CIMultiDict(headers)
    )
    return made.clone(remote=peer)


def remote(peer: str, *hops: str, proxies: str = PROXIES) -> str | None:
    headers = [("X-Forwarded-For", hop) for hop in hops]
    return Forwarded(settings(proxies)).see_through(request(peer, *headers)).remote


@pytest.mark.parametrize(
    ("hops", "client"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["198.51.100.9, 203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7, 10.2.3.4"], "203.0.113.7"),
        (["198.51.100.9", "203.0.113.7", "10.2.3.4, 192.0.2.1"], "203.0.113.7"),
        (["203.0.113.7:5678"], "203.0.113.7"),
        (["2a00::7"], "2a00::7"),
        (["[2a00::7]:5678"], "2a00::7"),
        (["::ffff:203.0.113.7"], "203.0.113.7"),
        (["10.2.3.4"], "10.2.3.4"),
        ([], "10.0.0.1"),
        (["unknown"], "10.0.0.1"),
        (["203.0.113.7, unknown, 10.2.3.4"], "10.2.3.4"),
        (["fe80::1%eth0"], "10.0.0.1"),
        ([""], "10.0.0.1"),
    ],
)
def test_client_is_the_rightmost_address_that_is_no_proxy(
    hops: list[str], client: str
) -> None:
    """What stands left of it was sent by the client itself; so are other words."""
    assert remote("10.0.0.1", *hops) == client


@pytest.mark.parametrize("peer", ["10.0.0.1", "::ffff:10.0.0.1", "2001:db8::5"])
def test_peer_is_trusted_by_its_network(peer: str) -> None:
    """Also where one socket is for both kinds of addresses."""
    assert remote(peer, "203.0.113.7") == "203.0.113.7"


@pytest.mark.parametrize("peer", ["203.0.113.1", "2001:db9::5", ""])
def test_header_of_anybody_else_is_not_believed(peer: str) -> None:
    """Everybody could send it."""
    assert remote(peer, "198.51.100.9") == peer


def test_nobody_is_trusted_by_default() -> None:
    """Not even this machine."""
    assert remote("127.0.0.1", "198.51.100.9", proxies="") == "127.0.0.1"


def test_many_hops_are_not_all_looked_at() -> None:
    """A client that names a thousand proxies costs no more than one with a few."""
    hops = ["198.51.100.9", *(f"10.9.9.{n}" for n in range(1, HOPS_MAX + 1))]
    assert remote("10.0.0.1", ", ".join(hops)) == "10.9.9.1"


def test_host_is_the_one_that_the_nearest_proxy_names() -> None:
    """Only a trusted proxy's word counts; everything else of the request stays."""
    headers = [("Host", "broker:8080"), ("X-Forwarded-Host", "evil, app.example")]
    forwarded = Forwarded(settings(PROXIES))
    seen = forwarded.see_through(request("10.0.0.1", *headers))

    assert seen.headers.getall(hdrs.HOST) == ["app.example"]
    assert (seen.path, seen.query_string) == ("/v1/ws/s1", "since=x")
    strange = forwarded.see_through(request("203.0.113.1", *headers))
    assert strange.headers[hdrs.HOST] == "broker:8080"


def test_where_only_this_machine_is_let_in_no_proxy_names_the_host() -> None:
    """A page that was led here by its DNS may set the header itself."""
    headers = [("Host", "evil.example"), ("X-Forwarded-Host", "localhost")]
    forwarded = Forwarded(settings(PROXIES, BROKER_ALLOW_INSECURE="false"))
    seen = forwarded.see_through(request("10.0.0.1", *headers))

    assert seen.headers[hdrs.HOST] == "evil.example"


@pytest.mark.parametrize(
    ("proxies", "hint"),
    [
        ("haproxy", "no names"),
        ("10.0.0.0/8, 300.1.1.1", "no names"),
        ("10.1.2.3/8", "10.0.0.0/8 or 10.1.2.3"),
        ("::ffff:10.0.0.0/104", "matches nobody"),
        ("fe80::/10", "matches nobody"),
    ],
)
def test_what_is_no_network_is_refused(proxies: str, hint: str) -> None:
    """The error names the setting and says what may stand there."""
    with pytest.raises(ConfigError, match=f"BROKER_TRUSTED_PROXIES.*{hint}"):
        settings(proxies)
