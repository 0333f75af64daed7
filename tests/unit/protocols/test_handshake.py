"""The opening handshake."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from multidict import CIMultiDict

from broker.protocols.handshake import (
    UpgradeRefusal,
    accept_key,
    check_upgrade,
    choose_subprotocol,
)

# The example of RFC 6455 section 1.3.
KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
GOOD = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}


def refusal(
    headers: Mapping[str, str], method: str = "GET", version: tuple[int, int] = (1, 1)
) -> UpgradeRefusal:
    answer = check_upgrade(headers, method, version)
    assert isinstance(answer, UpgradeRefusal)
    return answer


def test_accept_key_of_the_rfc():
    """The example of the RFC comes out."""
    assert accept_key(KEY) == ACCEPT


def test_good_request_is_accepted():
    """A request of the RFC's form gets its accept value."""
    assert check_upgrade(GOOD, "GET", (1, 1)) == ACCEPT


def test_names_and_tokens_are_read_in_any_case_and_place():
    """Browsers send Connection: keep-alive, Upgrade, and proxies change the case."""
    headers = {
        "upgrade": "h2c, WebSocket",
        "CONNECTION": "keep-alive,  UPGRADE",
        "sec-websocket-version": " 13 ",
        "sec-websocket-key": KEY,
    }

    assert check_upgrade(headers, "GET", (1, 1)) == ACCEPT


def test_tokens_may_come_in_several_headers():
    """A second header of the same name counts as much as the first."""
    headers = CIMultiDict([("Connection", "keep-alive"), *GOOD.items()])

    assert check_upgrade(headers, "GET", (1, 1)) == ACCEPT


@pytest.mark.parametrize(
    ("method", "version"), [("POST", (1, 1)), ("HEAD", (1, 1)), ("GET", (1, 0))]
)
def test_other_methods_and_http_1_0_are_refused(method, version):
    """Only GET of HTTP/1.1 starts a WebSocket."""
    assert refusal(GOOD, method, version).status == 400


@pytest.mark.parametrize(
    "changed",
    [{"Upgrade": ""}, {"Upgrade": "h2c"}, {"Sec-WebSocket-Version": "8"}]
    + [{"Sec-WebSocket-Version": version} for version in ("", "13, 8", "013")],
    ids=repr,
)
def test_what_could_be_done_right_is_426(changed):
    """A client that asks wrongly is told protocol and version to ask for."""
    answer = refusal(GOOD | changed)

    assert answer.status == 426
    assert answer.headers["Upgrade"] == "websocket"
    assert answer.headers["Sec-WebSocket-Version"] == "13"


@pytest.mark.parametrize(
    "changed",
    [{"Connection": "keep-alive"}, {"Connection": ""}]
    + [
        {"Sec-WebSocket-Key": key}
        for key in (
            "",
            "abc",
            KEY[:-4],
            "AAAA" + KEY,
            KEY + "AAAA",
            "é" * 24,
            "!" * 24,
            KEY[1:],
        )
    ],
    ids=repr,
)
def test_malformed_request_is_400(changed):
    """Connection without upgrade, or a key that is not 16 bytes, is malformed."""
    assert refusal(GOOD | changed).status == 400


def test_two_keys_are_refused():
    """The accept value must have one key to answer."""
    headers = CIMultiDict([*GOOD.items(), ("Sec-WebSocket-Key", KEY)])

    assert refusal(headers).status == 400


def test_refusal_repeats_nothing_of_the_request():
    """A token in a malformed request does not come back in the answer."""
    answer = refusal(dict.fromkeys(GOOD, "canary"))

    assert "canary" not in f"{answer}"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([], (None, None)),
        ([""], (None, None)),
        (["graphql-ws"], (None, None)),
        (["broker.v1"], ("broker.v1", None)),
        (["broker.v1, bearer.a.b-c_d"], ("broker.v1", "a.b-c_d")),
        (["bearer.x ,broker.v1"], ("broker.v1", "x")),
        (["bearer.x", "chat", "broker.v1"], ("broker.v1", "x")),
        (["bearer.x"], (None, "x")),
        (["bearer., bearer.x, bearer.y"], (None, "x")),
        (["BROKER.V1, Bearer.x"], (None, None)),
    ],
    ids=repr,
)
def test_subprotocol_and_token_are_found_in_the_offer(offered, chosen):
    """broker.v1 is chosen only if offered, and the token is never chosen."""
    assert choose_subprotocol(offered) == chosen
