"""What edges are made of."""

from __future__ import annotations

from typing import NamedTuple

from broker.config import Settings
from broker.metrics.slots import Row
from broker.worker.applications import Applications
from broker.worker.archive import Archive
from broker.worker.commands import Commands
from broker.worker.doorway import Doorway
from broker.worker.entrance import Entrance
from broker.worker.history import History
from broker.worker.limits import Limits
from broker.worker.plane import ControlPlane
from broker.worker.subscriptions import Subscriptions


class Parts(NamedTuple):
    """The parts of a worker that an edge may work with.

    Attributes:
        settings: The effective settings.
        values: The process's metric row.
        doorway: Opens sockets.
        commands: Does what clients of ``broker.v1`` say.
        applications: Takes commands for services.
        subscriptions: Opens and ends subscriptions.
        entrance: Judges tokens, rights and sessions.
        archive: Reads the past from Redis.
        history: Answers questions about the past.
        plane: Sessions, presence and whatever else is kept in Redis.
        limits: How much more there may be of what.
    """

    settings: Settings
    values: Row
    doorway: Doorway
    commands: Commands
    applications: Applications
    subscriptions: Subscriptions
    entrance: Entrance
    archive: Archive
    history: History
    plane: ControlPlane
    limits: Limits
