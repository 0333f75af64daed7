"""A small real child process in place of the reader or a worker.

It behaves as the rest of ``argv`` says: ``die`` fails at once, ``unusable`` says that
starting again is of no use, ``stubborn`` ignores SIGTERM until SIGUSR1 hurries it,
``deathless`` ignores it for ever, ``counting`` counts deliveries, ``once`` does too
but gets ready only in the first process of its row, ``mute`` never beats.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from types import FrameType

from broker.metrics import catalog
from broker.metrics.slots import Slots
from broker.process import ExitStatus, read_boot
from broker.ring import board as b

TURN_S = 0.02


class StandIn:
    def __init__(self, behaviour: str, lifeline_fd: int) -> None:
        self.behaviour = behaviour
        self.boot = read_boot(lifeline_fd)
        self.board = b.Board(self.boot.board_fd, self.boot.worker_count)
        slots = Slots(self.boot.metrics_fd, self.boot.worker_count)
        self.values = slots.row(self.boot.index)
        self.told = 0

    def handle_term(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.told += 1

    def run(self) -> ExitStatus:
        if self.behaviour == "die":
            return ExitStatus.FAILED
        if self.behaviour == "unusable":
            return ExitStatus.UNUSABLE
        if self.behaviour == "once" and self.values[catalog.DELIVERIES.slot]:
            self.behaviour = "mute"
        signal.signal(signal.SIGTERM, self.handle_term)
        signal.signal(signal.SIGUSR1, self.handle_term)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self.behaviour != "mute":
            self.get_ready()
        needed = {"stubborn": 2, "deathless": 1000}.get(self.behaviour, 1)
        while self.told < needed:
            if select.select([self.boot.lifeline_fd], [], [], TURN_S)[0]:
                return ExitStatus.ORPHANED
            self.turn()
        return ExitStatus.DONE

    def get_ready(self) -> None:
        row = self.boot.index
        self.board.set(row, b.PID, os.getpid())
        self.board.set(row, b.REDIS_UP_EVER, 1)
        self.board.beat(row)
        self.board.set(row, b.STATE, b.READY)
        if self.boot.role == "worker":
            self.values[catalog.CONNECTIONS["websocket"]] = 100

    def turn(self) -> None:
        if self.behaviour != "mute":
            self.board.beat(self.boot.index)
        if self.behaviour in ("counting", "once"):
            self.values[catalog.DELIVERIES.slot] += 1


if __name__ == "__main__":
    sys.exit(StandIn(sys.argv[1], int(sys.argv[2])).run())
