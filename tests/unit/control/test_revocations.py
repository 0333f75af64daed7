"""From whom access was taken, in one process."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.control.identity import Identity
from broker.control.revocations import (
    PRUNE_ABOVE,
    Revocations,
    token_key,
    user_key,
)
from broker.store.revocations import Revocation

AT, UNTIL = 1000.0, 2000.0
NOW = 1500.0
ANN = user_key("ann")


def table(*keys: str, at: float = AT, until: float = UNTIL) -> Revocations:
    revocations = Revocations()
    for key in keys:
        revocations.apply(key, at, until)
    return revocations


def of_ann(issued_at: float | None = None, token_id: str | None = None) -> Identity:
    return Identity("ann", issued_at=issued_at, token_id=token_id)


def test_an_empty_table_refuses_nobody() -> None:
    """Whatever the identity."""
    assert not Revocations().refuses(of_ann(AT, "t1"), NOW)


@pytest.mark.parametrize(
    ("issued_at", "refused"),
    [(AT - 1, True), (AT, True), (AT + 0.001, False), (AT + 1, False), (None, True)],
)
def test_a_revoked_user_needs_a_newer_token(
    issued_at: float | None, *, refused: bool
) -> None:
    """One that does not tell when it was made counts as old."""
    assert table(ANN).refuses(of_ann(issued_at), NOW) is refused


@pytest.mark.parametrize("issued_at", [None, AT - 1, AT + 1])
def test_a_revoked_token_is_refused_whenever_it_was_made(
    issued_at: float | None,
) -> None:
    """There is only one with that id: its time, by the issuer's clock, is no matter."""
    revoked = table(token_key("t1"))

    assert revoked.refuses(of_ann(issued_at, "t1"), NOW)
    assert not revoked.refuses(of_ann(issued_at, "t2"), NOW)
    assert not revoked.refuses(of_ann(issued_at), NOW)


@pytest.mark.parametrize(
    ("now", "refused"),
    [(AT - 5, True), (UNTIL - 1, True), (UNTIL, False), (UNTIL + 1, False)],
)
def test_a_revocation_runs_out(now: float, *, refused: bool) -> None:
    """All that it concerned has expired by then; a slow clock does not delay it."""
    assert table(ANN).refuses(of_ann(AT), now) is refused
    assert table(token_key("t")).refuses(of_ann(None, "t"), now) is refused


def test_others_are_not_touched() -> None:
    """Names that look alike are not the same, nor is a token named like a user."""
    revoked = table(ANN, token_key("bob"))

    for user in ("anna", "an", "Ann", "ann ", "bob", "a%6en"):
        assert not revoked.refuses(Identity(user), NOW)
    assert not table(token_key("ann")).refuses(of_ann(), NOW)


@given(st.text(max_size=5), st.text(max_size=5))
def test_keys_of_two_names_are_two_keys(one: str, other: str) -> None:
    """Whatever is in them."""
    assert (user_key(one) == user_key(other)) is (one == other)
    assert (token_key(one) == token_key(other)) is (one == other)
    assert user_key(one) != token_key(other)


@pytest.mark.parametrize("user", ["ann@example.com", "Ünal", "a:b", "}{", "a b"])
def test_any_user_can_be_revoked(user: str) -> None:
    """Characters that keys treat in their own way are no way out."""
    assert table(user_key(user)).refuses(Identity(user), NOW)


def test_a_pardon_gives_access_back() -> None:
    """At once, and to that one only."""
    revoked = table(ANN, user_key("bob"))

    revoked.forget(ANN)
    revoked.forget(token_key("never there"))

    assert not revoked.refuses(of_ann(), NOW)
    assert revoked.refuses(Identity("bob"), NOW)


def test_the_later_times_count_in_whatever_order_they_come() -> None:
    """Two pods revoke the same user, and the older notice comes last."""
    revoked = table(ANN, at=AT + 10, until=UNTIL)

    revoked.apply(ANN, AT, UNTIL + 10)
    revoked.apply(ANN, AT, UNTIL - 10)

    assert revoked.refuses(of_ann(AT + 10), NOW)
    assert revoked.refuses(of_ann(AT), UNTIL + 5)


def test_loading_takes_the_place_of_what_was_there() -> None:
    """A pardon whose notice was lost is found out."""
    revoked = Revocations()
    revoked.load({ANN: Revocation(AT, UNTIL), user_key("bob"): Revocation(AT, UNTIL)})
    assert revoked.refuses(of_ann(), NOW)

    revoked.load({user_key("bob"): Revocation(AT, UNTIL)})

    assert not revoked.refuses(of_ann(), NOW)
    assert revoked.refuses(Identity("bob"), NOW)


def test_what_came_while_the_list_was_read_is_kept() -> None:
    """Its answer may be older than the notice; the list after that one is not."""
    revoked = Revocations()
    revoked.apply(ANN, AT, UNTIL)

    revoked.load({})
    assert revoked.refuses(of_ann(), NOW)
    revoked.load({})
    assert not revoked.refuses(of_ann(), NOW)


def test_what_was_pardoned_is_not_kept_over_a_load() -> None:
    """The notice of the pardon came as well."""
    revoked = table(ANN)
    revoked.forget(ANN)

    revoked.load({})

    assert not revoked.refuses(of_ann(), NOW)


def test_a_load_does_not_take_back_what_is_newer() -> None:
    """The list shows the user's last revocation but one."""
    revoked = table(ANN, at=AT + 10)

    revoked.load({ANN: Revocation(AT, UNTIL + 10)})

    assert revoked.refuses(of_ann(AT + 10), NOW)
    assert revoked.refuses(of_ann(AT), UNTIL + 5)


def test_the_loaded_mapping_is_not_changed() -> None:
    """It belongs to who read it."""
    found: dict[str, Revocation] = {}
    revoked = Revocations()
    revoked.load(found)

    revoked.apply(ANN, AT, UNTIL)

    assert found == {}


def test_what_has_run_out_is_dropped() -> None:
    """The table holds what stands, and at most as much again."""
    revoked = Revocations()
    for number in range(20 * PRUNE_ABOVE):
        revoked.apply(user_key(f"u{number}"), number, number + 100)
        revoked.refuses(of_ann(), number)
        assert len(revoked) <= PRUNE_ABOVE + 1
    assert len(revoked._news) <= PRUNE_ABOVE + 1


def test_what_stands_is_never_dropped() -> None:
    """However much it is."""
    users = [f"u{number}" for number in range(3 * PRUNE_ABOVE)]
    revoked = table(*map(user_key, users))

    assert all(revoked.refuses(Identity(user), NOW) for user in users)
    assert len(revoked) == len(users)


def test_a_revocation_for_good_never_runs_out() -> None:
    """It is what somebody wrote by hand."""
    revoked = table(ANN, at=math.inf, until=math.inf)

    assert revoked.refuses(of_ann(1e18), 1e18)
