"""API keys: made once, kept as hashes, looked up."""

from __future__ import annotations

import hmac
from pathlib import Path

import orjson
import pytest

from broker.config import Settings, load_settings
from broker.control import api_keys as module
from broker.control.api_keys import ApiKeys, new_key
from broker.control.identity import BadClaims, Unauthorized
from broker.errors import ConfigError

KEY, RECORD = new_key("ann", ["subscribe"], ["room-*"], max_sessions=2, name="laptop")
OTHER_KEY, OTHER = new_key("bob", ["admin"], [])


def settings(records: object = None, path: Path | str = "") -> Settings:
    given = {"BROKER_AUTH": "api_key", "BROKER_API_KEYS_FILE": str(path)}
    if records is not None:
        given["BROKER_API_KEYS"] = orjson.dumps(records).decode()
    return load_settings(given, env_file=None)


def keys(*records: object) -> ApiKeys:
    return ApiKeys.from_settings(settings(list(records)))


def test_a_key_is_its_owner() -> None:
    """What the record grants is what the key allows."""
    identity = keys(OTHER, RECORD).identify(KEY)

    assert identity.user == "ann"
    assert identity.may_subscribe("room-1")
    assert not identity.may_command("room-1")
    assert not identity.may_subscribe("lobby")
    assert (identity.max_sessions, identity.max_connections) == (2, None)
    assert (identity.expires_at, identity.issued_at) == (None, None)
    assert identity.token_id == "laptop"


def test_the_record_does_not_hold_the_key() -> None:
    """Who reads the settings cannot connect with what is there."""
    assert KEY.startswith("bk_")
    assert len(KEY) == len("bk_") + 43
    assert KEY[3:] not in orjson.dumps(RECORD).decode()
    assert set(RECORD) == {"hash", "user", "rights", "sessions", "max_sessions", "name"}


def test_no_two_keys_are_equal() -> None:
    """Each is random."""
    made = {new_key("ann", ["subscribe"], ["*"])[0] for _ in range(100)}

    assert len(made) == 100


def test_a_new_key_carries_all_that_it_is_given() -> None:
    """Every part of an identity that can be said of a key survives the settings."""
    key, record = new_key(
        "ann",
        ("subscribe", "command"),
        ("*",),
        command_sessions=("s1",),
        max_sessions=0,
        max_connections=5,
    )
    identity = keys(record).identify(key)

    assert identity.may_subscribe("s2")
    assert identity.may_command("s1")
    assert not identity.may_command("s2")
    assert (identity.max_sessions, identity.max_connections) == (0, 5)
    assert identity.token_id is None


@pytest.mark.parametrize(
    ("user", "rights", "patterns"),
    [("", ["subscribe"], ["*"]), ("a", ["read"], ["*"]), ("a", ["admin"], ["a*b"])],
)
def test_a_key_that_could_not_be_read_is_not_made(
    user: str, rights: list[str], patterns: list[str]
) -> None:
    """The mistake is said to who makes the key, not to the broker's next start."""
    with pytest.raises(BadClaims):
        new_key(user, rights, patterns)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "bk_",
        KEY[:-1],
        KEY + "A",
        KEY.swapcase(),
        f" {KEY}",
        KEY[3:],
        RECORD["hash"],
        "bk_" + "A" * 43,
        "k" * 100_000,
        "ключ",
        "\ud800",
        "\x00",
    ],
    ids=range(13),
)
def test_anything_else_is_refused_alike(key: str) -> None:
    """Truncated, longer, the hash itself, oversized, of any script: one answer."""
    with pytest.raises(Unauthorized) as caught:
        keys(RECORD).identify(key)

    error = caught.value
    assert (error.code, error.reason) == ("unauthorized", "unknown_key")
    assert str(error) == "a valid token is needed"


def test_found_or_not_a_key_is_hashed_looked_up_and_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same steps are taken for both, so they take the same time."""
    steps: list[str] = []

    def digest(key: str) -> bytes:
        steps.append("hash")
        return own_digest(key)

    def compare(left: bytes, right: bytes) -> bool:
        assert len(left) == len(right) == 32
        steps.append("compare")
        return own_compare(left, right)

    own_digest, own_compare = module._digest, hmac.compare_digest
    known = keys(RECORD)
    monkeypatch.setattr(module, "_digest", digest)
    monkeypatch.setattr(hmac, "compare_digest", compare)
    known.identify(KEY)
    with pytest.raises(Unauthorized):
        known.identify(OTHER_KEY)

    assert steps == ["hash", "compare"] * 2


def test_keys_come_from_a_file_as_well(tmp_path: Path) -> None:
    """Those of the environment and those of the file are all good."""
    path = tmp_path / "keys.json"
    path.write_bytes(orjson.dumps([OTHER]))

    both = ApiKeys.from_settings(settings([RECORD], path))
    from_file = ApiKeys.from_settings(settings(path=path))

    assert both.identify(KEY).user == "ann"
    assert both.identify(OTHER_KEY).is_admin
    assert from_file.identify(OTHER_KEY).user == "bob"


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("canary", "is not an object"),
        ([], "is not an object"),
        ({}, "has no hash"),
        (RECORD | {"hash": None}, "has no hash"),
        (RECORD | {"hash": KEY}, "hash must be sha256:"),
        (RECORD | {"hash": f"{RECORD['hash']}0"}, "hash must be sha256:"),
        (RECORD | {"hash": f"sha256:{'A' * 64}"}, "hash must be sha256:"),
        (RECORD | {"hash": 5}, "hash must be sha256:"),
        (RECORD | {"user": None}, "has no user"),
        (RECORD | {"user": "a\n"}, "the user is printable text"),
        (RECORD | {"rights": None}, "has no rights"),
        (RECORD | {"rights": ["canary"]}, "rights has a text"),
        (RECORD | {"sessions": None}, "has no sessions"),
        (RECORD | {"sessions": "canary"}, "sessions is a list"),
        (RECORD | {"max_sessions": "canary"}, "max_sessions is a number"),
        (RECORD | {"name": ""}, "name is printable text"),
        (RECORD | {"canary": 1}, "has a field that is none of hash, user"),
    ],
    ids=range(17),
)
def test_an_entry_that_cannot_be_used_is_named(record: object, why: str) -> None:
    """The message says where and why, and shows nothing of the entry."""
    with pytest.raises(ConfigError) as caught:
        keys(OTHER, record)

    text = str(caught.value)
    assert text.startswith("BROKER_API_KEYS: entry 2: ")
    assert why in text
    for secret in ("canary", KEY, str(RECORD["hash"])[7:], KEY[3:]):
        assert secret not in text


def test_a_key_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    """Which of two records would count is not left to their order."""
    path = tmp_path / "keys.json"
    path.write_bytes(orjson.dumps([OTHER, RECORD | {"user": "eve", "name": "x"}]))

    with pytest.raises(ConfigError, match="_FILE: entry 2: the same key was listed"):
        ApiKeys.from_settings(settings([RECORD], path))


def test_a_name_that_is_used_twice_is_refused() -> None:
    """Keys are revoked by their names, one at a time."""
    with pytest.raises(ConfigError, match="entry 2: another key has the same name"):
        keys(RECORD, OTHER | {"name": "laptop"})


def test_keys_without_a_name_need_none() -> None:
    """Having no name is not having the same name."""
    _, third = new_key("eve", ["admin"], [])

    assert keys(OTHER, third).identify(OTHER_KEY).user == "bob"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[canary]", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b'{"canary": 1}', "must be a JSON array"),
        (b"[]", "there is no key in them"),
        (b"[" * 100_000, "is not JSON"),
    ],
    ids=["text", "bytes", "object", "empty", "nested"],
)
def test_a_file_that_cannot_be_used_is_refused(
    tmp_path: Path, content: bytes, why: str
) -> None:
    """The start fails and says which setting is meant."""
    path = tmp_path / "keys.json"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match="BROKER_API_KEYS_FILE") as caught:
        ApiKeys.from_settings(settings(path=path))

    assert why in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    """The path is no secret."""
    path = tmp_path / "none.json"

    with pytest.raises(ConfigError, match=r"none\.json: cannot be read: No such file"):
        ApiKeys.from_settings(settings(path=path))
