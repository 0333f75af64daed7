"""Who somebody is and what that allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.control.identity import (
    ALL_SESSIONS,
    LIMIT_MAX,
    NO_SESSIONS,
    REASONS,
    USER_BYTES_MAX,
    BadClaims,
    Identity,
    Right,
    Sessions,
    everybody,
    read_identity,
    unauthorized,
)

NAMES = st.from_regex(r"[ab][ab.]{0,3}", fullmatch=True)
PATTERNS = NAMES | NAMES.map(lambda name: f"{name}*") | st.just("*")


def identity(**claims: object) -> Identity:
    return read_identity("ann", claims)


def sessions(*patterns: str) -> Sessions:
    return identity(sessions=list(patterns)).sessions


def allows(pattern: str, session: str) -> bool:
    """What a pattern means, in the plainest words."""
    if pattern.endswith("*"):
        return session[: len(pattern) - 1] == pattern[:-1]
    return session == pattern


@given(st.lists(PATTERNS, max_size=5), NAMES)
def test_a_set_holds_what_any_of_its_patterns_allows(
    patterns: list[str], session: str
) -> None:
    """Names are exact and prefixes are beginnings, in any number and order."""
    expected = any(allows(pattern, session) for pattern in patterns)

    assert (session in sessions(*patterns)) is expected


@given(st.lists(PATTERNS, max_size=5))
def test_order_and_duplicates_of_patterns_do_not_matter(patterns: list[str]) -> None:
    """A list that says the same twice or backwards is the same set."""
    assert sessions(*patterns) == sessions(*reversed(patterns), *patterns)


@pytest.mark.parametrize("session", ["room-1", "room-", "room-1.x"])
def test_a_prefix_holds_all_that_begins_so(session: str) -> None:
    """The beginning itself is one of them."""
    assert session in sessions("room-*")


@pytest.mark.parametrize("session", ["room", "Room-1", "xroom-1", "lobby2", "lobb", ""])
def test_a_set_holds_nothing_else(session: str) -> None:
    """No other case, no other place in the name, no longer or shorter name."""
    assert session not in sessions("room-*", "lobby")


def test_a_star_holds_all_and_an_empty_list_nothing() -> None:
    """Both are one value each, however many connections have them."""
    assert sessions("a", "*", "b-*") is ALL_SESSIONS
    assert "any" in ALL_SESSIONS
    assert sessions() == NO_SESSIONS
    assert "any" not in NO_SESSIONS


@pytest.mark.parametrize(
    "pattern",
    ["", "a*b", "**", "a**", "-a", "_probe*", "../x", "a b", "a\n", "é", "a" * 129],
)
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    """A name with a star in the middle would otherwise silently match nothing."""
    with pytest.raises(BadClaims, match="sessions has"):
        sessions("good", pattern)


@pytest.mark.parametrize("value", ["room-1", {"room-1": 1}, [1], [None], 5, True])
def test_sessions_must_be_a_list_of_texts(value: object) -> None:
    """A text is not taken for the list of its letters."""
    with pytest.raises(BadClaims, match="a list of texts"):
        identity(sessions=value)
    with pytest.raises(BadClaims, match="a list of texts"):
        identity(command_sessions=value)
    with pytest.raises(BadClaims, match="a list of texts"):
        identity(rights=value)


def test_what_is_not_mentioned_is_forbidden() -> None:
    """Neither rights without sessions nor sessions without rights open anything."""
    nothing = identity()
    no_sessions = identity(rights=["subscribe", "command", "publish", "admin"])
    no_rights = identity(sessions=["*"])

    for one in (nothing, no_sessions, no_rights):
        assert not one.may_subscribe("s1")
        assert not one.may_command("s1")
        assert not one.may_publish("s1")
    assert not nothing.is_admin
    assert no_sessions.is_admin


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        ("subscribe", (True, False, False, False)),
        ("command", (False, True, False, False)),
        ("publish", (False, False, True, False)),
        ("admin", (False, False, False, True)),
    ],
)
def test_a_right_opens_one_thing(right: str, expected: tuple[bool, ...]) -> None:
    """None contains another, and each holds only in the sessions that are named."""
    one = identity(rights=[right], sessions=["s1"])

    at_s1 = (one.may_subscribe("s1"), one.may_command("s1"), one.may_publish("s1"))
    assert (*at_s1, one.is_admin) == expected
    assert not one.may_subscribe("s2")
    assert not one.may_command("s2")
    assert not one.may_publish("s2")


def test_commands_may_have_sessions_of_their_own() -> None:
    """What may be read and what may be commanded are separate, even for no session."""
    rights = ["subscribe", "command", "publish"]
    one = identity(rights=rights, sessions=["s*"], command_sessions=["s1", "t1"])
    silent = identity(rights=rights, sessions=["s*"], command_sessions=[])

    assert [one.may_command(name) for name in ("s1", "t1", "s2")] == [True, True, False]
    assert [one.may_subscribe(name) for name in ("s2", "t1")] == [True, False]
    assert [one.may_publish(name) for name in ("s2", "t1")] == [True, False]
    assert not silent.may_command("s1")


def test_duplicate_rights_are_one() -> None:
    """The set is a set, and equal sets are one object."""
    once = identity(rights=["subscribe", "command"])
    twice = identity(rights=["command", "subscribe", "command"])

    assert once.rights == {Right.SUBSCRIBE, Right.COMMAND}
    assert twice.rights is once.rights


@pytest.mark.parametrize("right", ["", "Subscribe", "read", "subscribe "])
def test_a_right_that_nobody_knows_is_refused(right: str) -> None:
    """A misspelt right is said, not left out."""
    with pytest.raises(BadClaims, match="subscribe, command, publish, admin"):
        identity(rights=["subscribe", right])


@pytest.mark.parametrize(
    "user", ["a", "ann@example.com", "Ünal Ø", "ü" * (USER_BYTES_MAX // 2), "a b", "}"]
)
def test_a_user_is_printable_text(user: str) -> None:
    """Of any script, counted in bytes."""
    assert read_identity(user, {}).user == user


@pytest.mark.parametrize(
    "user",
    [
        "",
        "a" * (USER_BYTES_MAX + 1),
        "ü" * (USER_BYTES_MAX // 2 + 1),
        "a\nb",
        "a\x00",
        "\u202eevil",
        "\ud800",
        7,
        None,
        ["ann"],
    ],
)
def test_a_user_of_another_kind_is_refused(user: object) -> None:
    """Names end up in keys, logs and on screens: no control characters, no books."""
    with pytest.raises(BadClaims, match="the user is printable text"):
        read_identity(user, {})


@pytest.mark.parametrize("limit", [None, 0, 1, LIMIT_MAX])
def test_limits_may_come_with_the_identity(limit: int | None) -> None:
    """None leaves it to the settings, 0 lifts it."""
    one = identity(max_sessions=limit, max_connections=limit)

    assert (one.max_sessions, one.max_connections) == (limit, limit)


@pytest.mark.parametrize("limit", [-1, LIMIT_MAX + 1, True, 3.0, "3", [3]])
def test_a_limit_that_is_no_count_is_refused(limit: object) -> None:
    """Nothing is rounded, guessed or read out of a text."""
    with pytest.raises(BadClaims, match="max_sessions is a number"):
        identity(max_sessions=limit)
    with pytest.raises(BadClaims, match="max_connections is a number"):
        identity(max_connections=limit)


def test_everybody_may_do_all_but_administer() -> None:
    """Where nobody is asked, sessions are open and the server API is not."""
    one = everybody("ann")

    assert one.user == "ann"
    assert one.may_subscribe("s1")
    assert one.may_command("s1")
    assert one.may_publish("s1")
    assert not one.is_admin
    assert one.expires_at is None


@pytest.mark.parametrize(
    "claims",
    [
        {"sessions": ["canary!"]},
        {"sessions": "canary!"},
        {"command_sessions": ["canary*canary"]},
        {"rights": ["canary"]},
        {"max_sessions": "canary"},
    ],
)
def test_refused_claims_are_not_repeated(claims: dict[str, object]) -> None:
    """Whatever was put into a claim by mistake does not get into a log."""
    with pytest.raises(BadClaims) as caught:
        identity(**claims)

    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("reason", REASONS)
def test_only_an_expired_token_is_told_apart(reason: str) -> None:
    """Who guesses learns nothing; who was let in before learns to get a new token."""
    error = unauthorized(reason)

    expected = {"expired": ("token_expired", "the token has expired; get a new one")}
    other = ("unauthorized", "a valid token is needed")
    assert (error.code, error.message) == expected.get(reason, other)
    assert str(error) == error.message
    assert error.reason == reason
