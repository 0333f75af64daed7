"""The accounting recorder: published = delivered + lost and told + not asked for."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from dataclasses import dataclass

from broker.model import FIRST_ID, LAST_ID, StreamId
from tests.harness.accounts import Account, Epoch, Told
from tests.harness.ledger import Incarnation, Ledger


class AccountingError(AssertionError):
    """A sum does not close, or something came twice, late or without its place."""


@dataclass(frozen=True, slots=True)
class Sum:
    """One closed account: ``published == not_asked + delivered + lost``.

    Attributes:
        published: Entries of the last life of the stream.
        not_asked: Those before the place where the client began.
        delivered: Those that it received, once each and in order.
        lost: Those that were announced to it as lost.
    """

    client: str
    session: str
    published: int
    not_asked: int
    delivered: int
    lost: int


class Recorder:
    """Every account of one test, and the truth that they are compared with."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.ledger = ledger or Ledger()
        self._accounts: dict[tuple[str, str], Account] = {}

    def account(self, client: str, session: str) -> Account:
        """The account of *client* for *session*, made at the first call."""
        key = client, session
        if key not in self._accounts:
            self._accounts[key] = Account(client, session)
        return self._accounts[key]

    def forget(self, client: str, session: str) -> None:
        """Begin a new account: the client wants something else than it did before."""
        self._accounts.pop((client, session), None)

    @property
    def accounts(self) -> list[Account]:
        return list(self._accounts.values())

    def is_complete(self, account: Account) -> bool:
        """Whether everything published is delivered or announced to *account*."""
        if account.left:
            return True
        lives = self.ledger.lives(account.session)
        epoch = account.epoch
        if epoch.start is None or epoch.covered < lives[-1].last:
            return False
        # After a deletion with nothing new in the stream, a client that still
        # stands in the old life is not there yet.
        return not epoch.received or lives[-1].has(epoch.last_id)

    async def complete(self, timeout_s: float = 15.0) -> None:
        """Wait until nothing more is owed to anybody.

        Raises:
            AccountingError: It took longer than *timeout_s*.
        """
        try:
            async with asyncio.timeout(timeout_s):
                for account in self.accounts:
                    while not self.is_complete(account):
                        await account.changed()
        except TimeoutError:
            late = [self._state(a) for a in self.accounts if not self.is_complete(a)]
            faults = [fault for a in self.accounts for fault in a.faults]
            raise AccountingError(
                f"{len(late)} accounts incomplete after {timeout_s} s: "
                + "; ".join(late[:10] + faults[:10])
            ) from None

    def settle(self) -> list[Sum]:
        """Close every account.

        Raises:
            AccountingError: With every fault that was found.
        """
        faults: list[str] = []
        sums = []
        for account in self.accounts:
            if account.epoch.start is None and account.left:
                continue
            found, total = _settle(account, self.ledger.lives(account.session))
            faults += account.faults + found
            sums.append(total)
        if faults:
            shown = "\n".join(faults[:30])
            raise AccountingError(f"{len(faults)} faults:\n{shown}")
        return sums

    def _state(self, account: Account) -> str:
        tip = self.ledger.current(account.session).last
        return (
            f"{account.client}/{account.session} at {account.epoch.covered} of {tip} "
            f"after {account.delivered} events on {account.connections} connections"
        )


def _settle(account: Account, lives: list[Incarnation]) -> tuple[list[str], Sum]:
    """Compare *account* with the truth; returns the faults and the sum."""
    faults: list[str] = []
    life = len(lives) - 1
    total = Sum(account.client, account.session, 0, 0, 0, 0)
    for place, epoch in enumerate(reversed(account.epochs)):
        current = place == 0
        if not current:
            life = _life_of(epoch, lives, life)
        if life < 0:
            faults.append("more histories were told than there were")
            break
        until = lives[life].last if current and not account.left else epoch.last_id
        found, closed = _compare(account, epoch, lives[life], until)
        faults += found
        if current:
            total = closed
    who = f"{account.client}/{account.session}: "
    return [who + fault for fault in faults], total


def _life_of(epoch: Epoch, lives: list[Incarnation], newest: int) -> int:
    """The newest life up to *newest* that has the last event of *epoch*."""
    if not epoch.received:
        return newest
    for life in range(newest, -1, -1):
        if lives[life].has(epoch.last_id):
            return life
    return -1


def _compare(
    account: Account, epoch: Epoch, truth: Incarnation, until: StreamId
) -> tuple[list[str], Sum]:
    start = epoch.start.id if epoch.start else FIRST_ID
    owed = truth.between(start, until)
    received = {entry[0] for entry in epoch.received}
    missing = [entry_id for entry_id in owed if entry_id not in received]
    gaps = epoch.told + epoch.pending if until > epoch.last_id else epoch.told
    faults = _wrong_entries(epoch, truth)
    faults += _uncovered(missing, gaps)
    faults += _wrong_counts(missing, gaps)
    faults += _wrong_positions(epoch, gaps, truth)
    published = truth.ordinal(until)
    lost = sum(gap.lost or 0 for gap in gaps)
    if any(gap.lost is None for gap in gaps):
        lost = len(missing)
    closed = Sum(
        account.client,
        account.session,
        published,
        published - len(owed),
        len(received),
        lost,
    )
    if closed.not_asked + closed.delivered + closed.lost != closed.published:
        faults.append(f"the sum does not close: {closed}")
    return faults, closed


def _wrong_entries(epoch: Epoch, truth: Incarnation) -> list[str]:
    faults = []
    for entry_id, seq, number in epoch.received:
        if not truth.has(entry_id):
            faults.append(f"{entry_id} was never published here")
        elif number != truth.numbers[entry_id]:
            faults.append(
                f"{entry_id} has the content of {number}, "
                f"not of {truth.numbers[entry_id]}"
            )
        elif seq is not None and seq != truth.ordinal(entry_id):
            faults.append(f"{entry_id} is {truth.ordinal(entry_id)} and not {seq}")
    return faults


def _uncovered(missing: list[StreamId], gaps: list[Told]) -> list[str]:
    """Every entry that did not come must lie in the range of a gap."""
    silent: list[StreamId] = []
    upto = FIRST_ID
    for gap in sorted(gaps, key=lambda gap: gap.after.id):
        silent += _between(missing, upto, gap.after.id)
        upto = max(upto, gap.next.id)
    silent += _between(missing, upto, LAST_ID)
    if not silent:
        return []
    return [f"{len(silent)} missing without a gap, {silent[0]} to {silent[-1]}"]


def _wrong_counts(missing: list[StreamId], gaps: list[Told]) -> list[str]:
    faults = []
    for gap in gaps:
        inside = len(_between(missing, gap.after.id, gap.next.id))
        if gap.lost is not None and inside != gap.lost:
            faults.append(f"{gap} although {inside} are missing there")
    return faults


def _between(ids: list[StreamId], after: StreamId, last: StreamId) -> list[StreamId]:
    return ids[bisect_right(ids, after) : bisect_right(ids, last)]


def _wrong_positions(epoch: Epoch, gaps: list[Told], truth: Incarnation) -> list[str]:
    told = [
        *epoch.positions,
        *(place for gap in gaps for place in (gap.after, gap.next)),
    ]
    return [
        f"position {place} was told, its ordinal is {truth.ordinal(place.id)}"
        for place in told
        if place.seq is not None and place.seq != truth.ordinal(place.id)
    ]
