"""Redis URLs."""

from __future__ import annotations

import pytest

from broker.errors import ConfigError
from broker.store.address import Address, parse_url


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", Address(host="127.0.0.1")),
        ("redis://h:1/2", Address(host="h", port=1, db=2)),
        ("redis://h?db=3", Address(host="h", db=3)),
        ("redis://:p%40ss@h", Address(host="h", password="p@ss")),
        ("redis://u:p@h", Address(host="h", username="u", password="p")),
        ("redis://[::1]:7", Address(host="::1", port=7)),
        ("rediss://h/0", Address(host="h", tls=True)),
        ("unix:///run/r.sock", Address(path="/run/r.sock")),
        ("unix://u:p@/r?db=4", Address(path="/r", username="u", password="p", db=4)),
        (
            "redis://u:p[]@[::1]:7\n",
            Address(host="::1", port=7, username="u", password="p[]"),
        ),
        (
            "rediss://h?ssl_ca_certs=/ca.pem",
            Address(host="h", tls=True, options={"ssl_ca_certs": "/ca.pem"}),
        ),
        (
            "redis+sentinel://u:p@h1,h2:7/main/3?sentinel_password=s",
            Address(
                kind="sentinel",
                nodes=(("h1", 26379), ("h2", 7)),
                service="main",
                username="u",
                password="p",
                db=3,
                options={"sentinel_password": "s"},
            ),
        ),
        (
            "rediss+cluster://:p@h1:7,[::1]",
            Address(
                kind="cluster",
                nodes=(("h1", 7), ("::1", 6379)),
                password="p",
                tls=True,
            ),
        ),
    ],
)
def test_url_is_taken_apart(url: str, address: Address) -> None:
    """Each part of a URL lands in its place, percent-decoded."""
    assert parse_url(url) == address


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://h", "begin with"),
        ("", "begin with"),
        ("redis://h:x", "valid host and port"),
        ("redis://h:99999", "valid host and port"),
        ("redis://[::1", "valid host and port"),
        ("redis://:ab?secret=1@h", "as %2F %3F %23"),
        ("redis://u:1234#secret@h", "as %2F %3F %23"),
        ("unix://:secret/x@/p", "as %2F %3F %23"),
        ("redis://h/" + 5000 * "1", "must be a number"),
        ("redis://h/x", "must be a number"),
        ("redis://h//x", "must be a number"),
        ("redis://h1,h2", "several hosts"),
        ("redis+sentinel://h1,h2", "needs the service"),
        ("redis+sentinel://h1,h2:x/main", "valid host and port"),
        ("redis+sentinel://h1/main/x", "must be a number"),
        ("redis+cluster://h/1", "no database but 0"),
        ("redis://h?socket_timeout=1", "socket_timeout"),
        ("rediss://h?ssl_cert_reqs=maybe", "required or none"),
        ("unix://", "path"),
    ],
)
def test_unusable_url_is_refused_with_the_reason(url: str, why: str) -> None:
    """The message says what is wrong."""
    with pytest.raises(ConfigError, match=why):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:canary@h:x",
        "http://u:canary@h",
        "redis://u:canary@h/x",
        "redis://u:a?canary=1@h",
        "redis://u:a#canary@h",
        "redis://u:a/canary@h",
    ],
)
def test_message_about_a_url_never_holds_its_password(url: str) -> None:
    """A password does not leave through an error message."""
    with pytest.raises(ConfigError) as caught:
        parse_url(url)

    assert "canary" not in str(caught.value)


def test_shown_address_has_neither_user_nor_password() -> None:
    """What a log shows of an address is no secret."""
    address = parse_url("rediss://user:canary@[::1]:7/2")

    assert str(address) == "rediss://[::1]:7/2"
    assert "canary" not in repr(address)


def test_shown_address_of_many_nodes_has_no_secret_either() -> None:
    """Sentinels and clusters are shown by their nodes."""
    sentinels = parse_url("redis+sentinel://u:canary@a,b/main?sentinel_password=canary")

    assert str(sentinels) == "redis+sentinel://a:26379,b:26379/main/0"
    assert str(parse_url("redis+cluster://a,[::1]:7")) == (
        "redis+cluster://a:6379,[::1]:7/0"
    )


def test_certificates_that_cannot_be_read_are_a_config_error() -> None:
    """A wrong path is told as a setting that cannot be used."""
    with pytest.raises(ConfigError, match="certificates"):
        parse_url("rediss://h?ssl_ca_certs=/no/such/file").ssl_context()


def test_plain_address_has_no_ssl_context() -> None:
    """Only rediss:// is encrypted."""
    assert parse_url("redis://h").ssl_context() is None
