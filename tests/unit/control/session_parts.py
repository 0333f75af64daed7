"""A keeper of sessions without Redis: what it asks is kept, a test says the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from broker.config import Settings, load_settings
from broker.control import sessions as keeper_module
from broker.control import stays as stays_module
from broker.control.notices import SessionEnded
from broker.control.sessions import SessionKeeper
from broker.errors import StoreError, StoreUnavailable
from broker.store import sessions as store_module
from broker.store.session_outcomes import (
    Closed,
    Held,
    Outcome,
    Renewal,
    Standing,
    Terms,
    Verdict,
    Victim,
)
from tests.fakes import FakeClock

LEASE_S = 30.0
LINGER_S = 60.0


def settings(**given: object) -> Settings:
    wanted = {"session_lease_s": LEASE_S, "session_linger_s": LINGER_S} | given
    named = {f"BROKER_{name.upper()}": str(value) for name, value in wanted.items()}
    return load_settings(named, env_file=None)


def standing(
    session: str,
    fence: int,
    verdict: Verdict = "open",
    replaced_by: str = "",
    *,
    new: bool = False,
) -> Standing:
    return Standing(session, verdict, fence, new, replaced_by)


def held(user: str, *standings: Standing, victims: Sequence[Victim] = ()) -> Held:
    return Held(
        user=user, due_ms=1, news=[], standings=list(standings), victims=list(victims)
    )


class FakeStanding:
    """A connection to nowhere that is there or not.

    Attributes:
        up: Whether it can be used.
        dropped: How often it was given up.
    """

    def __init__(self) -> None:
        self.up = True
        self.dropped = 0
        self.connection: Any = object()

    def use(self) -> Any:
        if not self.up:
            raise StoreUnavailable("away")
        return self.connection

    def drop(self) -> None:
        self.dropped += 1


class FakeStore:
    """Stands for the functions of `broker.store.sessions` and for `announce`.

    Attributes:
        opened: Keywords of each opening.
        renewed: The renewals of each write.
        announced: Users whose outcomes were announced.
        answers: What the next openings come to.
        verdicts: What a renewal of a session comes to; else it is open as asked.
        failures: Errors that the next writes meet, for all or for each user.
        refuses_announcements: What announcing meets.
    """

    def __init__(self) -> None:
        self.opened: list[dict[str, Any]] = []
        self.renewed: list[list[Renewal]] = []
        self.announced: list[str] = []
        self.answers: list[Held | StoreError] = []
        self.verdicts: dict[str, Standing] = {}
        self.failures: list[StoreError | dict[str, StoreError]] = []
        self.refuses_announcements: StoreError | None = None

    async def open_session(
        self, _connection: object, user: str, session: str, _terms: Terms, **more: Any
    ) -> Held:
        self.opened.append({"user": user, "session": session} | more)
        answer = self.answers.pop(0)
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def renew_sessions(
        self, _connection: object, renewals: Sequence[Renewal], _terms: Terms
    ) -> list[Held | StoreError]:
        self.renewed.append(list(renewals))
        failure = self.failures.pop(0) if self.failures else {}
        if isinstance(failure, StoreError):
            raise failure
        return [failure.get(one.user) or self._renew(one) for one in renewals]

    def _renew(self, renewal: Renewal) -> Held:
        return held(
            renewal.user,
            *(
                self.verdicts.get(one.session, standing(one.session, one.fence or 1))
                for one in renewal.leases
            ),
        )

    async def close_session(
        self, _connection: object, user: str, session: str, _terms: Terms
    ) -> Closed:
        return Closed(user=user, due_ms=0, news=[], session=session, fence=5)

    async def announce(self, _connection: object, *outcomes: Outcome) -> None:
        if self.refuses_announcements is not None:
            raise self.refuses_announcements
        self.announced += [one.user for one in outcomes]

    def leases(self) -> list[dict[str, int]]:
        """What each write asked for, in ms by session."""
        return [
            {lease.session: lease.lease_ms for one in write for lease in one.leases}
            for write in self.renewed
        ]


class Rig:
    """A keeper on a clock and a store that a test moves.

    Attributes:
        ended: Session, fence and reason of each end that the worker was told of.
        told: What was published.
    """

    def __init__(self, patch: pytest.MonkeyPatch, **given: object) -> None:
        self.clock = FakeClock()
        self.store = FakeStore()
        self.standing = FakeStanding()
        self.ended: list[tuple[str, int, str]] = []
        self.told: list[SessionEnded] = []
        for module in (keeper_module, stays_module):
            patch.setattr(module, "time", self.clock)
        for name in ("open_session", "renew_sessions", "close_session"):
            patch.setattr(store_module, name, getattr(self.store, name))
        patch.setattr(keeper_module, "announce", self.store.announce)
        made: Any = self.standing
        self.keeper = SessionKeeper(
            made, settings(**given), self._end, self.told.append
        )

    def _end(
        self, user: str, session: str, fence: int, reason: str, replaced_by: str
    ) -> None:
        del user, replaced_by
        self.ended.append((session, fence, reason))

    async def come(self, session: str, fence: int = 5, user: str = "ann") -> None:
        """Admit a connection and let it in."""
        self.store.answers.append(held(user, standing(session, fence, new=True)))
        await self.keeper.admit(user, session, limit=2)
        self.keeper.entered(user, session)
