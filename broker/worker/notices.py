"""What a subscription is told about itself, and the metrics of it."""

from __future__ import annotations

from broker.metrics import catalog
from broker.metrics.slots import Row, observe
from broker.model import START, Position
from broker.ring.records import GapRecord
from broker.worker.channels import Subscription
from broker.worker.hub import gap_data
from broker.worker.pages import gap_of
from broker.worker.recent import Page


class Notices:
    """Tells, and counts what was told."""

    def __init__(self, values: Row) -> None:
        self._values = values

    def send_subscribed(
        self, sub: Subscription, resume: str, source: str = "none"
    ) -> None:
        """Tell how the subscription begins, and count from where it resumes.

        Args:
            sub: Who.
            resume: ``live``, ``complete``, ``gap`` or ``reset``.
            source: Where its past comes from: ``ring``, ``redis``, or ``none``.
        """
        data = {
            "resume": resume,
            "from": str(sub.position),
            "tip": str(sub.channel.tip),
        }
        if sub.ref is not None:
            data["ref"] = sub.ref
        sub.announced = True
        _send(sub, "subscribed", data)
        self._values[catalog.RESUMES.slots[resume, source]] += 1

    def send_caught_up(self, sub: Subscription) -> None:
        """Tell that from here on events are live."""
        _send(
            sub,
            "caught_up",
            {"position": str(sub.channel.tip), "replayed": sub.replayed},
        )

    def send_reset(self, sub: Subscription) -> None:
        """Tell that the stream is another one, and that all it retains follows."""
        _send(sub, "reset", {"from": str(START), "tip": str(sub.channel.tip)})

    def send_hole(self, sub: Subscription) -> None:
        """Tell of entries left out at the end of a replay, if there are any; once."""
        hole = sub.hole
        if hole is not None:
            _send(sub, "gap", gap_data(gap_of(hole, sub.position)))
            self._values[catalog.DROPS.slots[hole.reason]] += hole.lost
            sub.hole = None

    def send_dropped(self, sub: Subscription, tip: Position) -> None:
        """Tell what ``overflow=drop`` leaves out between its position and *tip*."""
        position = sub.position
        lost = None
        if tip.seq is not None and position.seq is not None:
            lost = tip.seq - position.seq
        gap = GapRecord(
            after=position,
            next=tip,
            lost=lost,
            exact=lost is not None,
            reason="dropped",
        )
        _send(sub, "gap", gap_data(gap))
        self._values[catalog.DROPS.slots["dropped"]] += lost or 0
        self._values[catalog.GAPS_UNKNOWN.slot] += lost is None

    def count_page(self, page: Page, source: str) -> None:
        """Count a page of a replay that was sent; *source* is ``ring`` or ``redis``."""
        values = self._values
        values[catalog.DELIVERIES.slot] += page.events
        values[catalog.REPLAYED.slots[source]] += page.events
        values[catalog.DELIVERED_BYTES.slot] += len(page.data)
        values[catalog.GAPS_UNKNOWN.slot] += page.unknown
        for reason, lost in page.lost.items():
            values[catalog.DROPS.slots[reason]] += lost

    def count_replay(self, seconds: float) -> None:
        """Count a replay that has reached the tip, and how long it took."""
        observe(self._values, catalog.REPLAY_SECONDS.slot, seconds)


def _send(sub: Subscription, event: str, data: object) -> None:
    sub.socket.notify(event, data, sub.channel.session)
