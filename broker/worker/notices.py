"""What a subscription is told about itself. Pure."""

from __future__ import annotations

from broker.model import START, Position
from broker.ring.records import GapRecord
from broker.worker.channels import Subscription
from broker.worker.hub import gap_data
from broker.worker.pages import gap_of


def send_subscribed(sub: Subscription, resume: str) -> None:
    """Tell how the subscription begins: live, complete, gap or reset."""
    data = {
        "resume": resume,
        "from": str(sub.position),
        "tip": str(sub.channel.tip),
    }
    if sub.ref is not None:
        data["ref"] = sub.ref
    _send(sub, "subscribed", data)


def send_caught_up(sub: Subscription) -> None:
    """Tell that from here on events are live."""
    _send(
        sub,
        "caught_up",
        {"position": str(sub.channel.tip), "replayed": sub.replayed},
    )


def send_reset(sub: Subscription) -> None:
    """Tell that the stream is another one, and that all it retains follows."""
    _send(sub, "reset", {"from": str(START), "tip": str(sub.channel.tip)})


def send_hole(sub: Subscription) -> None:
    """Tell of entries left out at the end of a replay, if there are any."""
    if sub.hole is not None:
        _send(sub, "gap", gap_data(gap_of(sub.hole, sub.position)))


def send_dropped(sub: Subscription, tip: Position) -> int | None:
    """Tell what ``overflow=drop`` leaves out; returns how many, None if unknown."""
    position = sub.position
    lost = None
    if tip.seq is not None and position.seq is not None:
        lost = tip.seq - position.seq
    gap = GapRecord(
        after=position, next=tip, lost=lost, exact=lost is not None, reason="dropped"
    )
    _send(sub, "gap", gap_data(gap))
    return lost


def _send(sub: Subscription, event: str, data: object) -> None:
    sub.socket.notify(event, data, sub.channel.session)
