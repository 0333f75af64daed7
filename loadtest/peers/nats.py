"""nats-server over WebSocket, fed by ``PUB`` over TCP."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from broker.store.embedded import free_port
from loadtest.child import end, spawn, wait_until
from loadtest.counters import Counters
from loadtest.fleet.dialects import Dialect
from loadtest.peers.target import Feed, Target
from loadtest.setup import Setup

# Pings off, as in the broker's runs; the rest as it comes, also the 64 MiB of pending
# bytes per client and the write deadline that make it cut slow consumers.
_CONFIG = """
listen: "127.0.0.1:{tcp}"
ping_interval: "1h"
websocket {{ listen: "127.0.0.1:{websocket}", no_tls: true, compression: false }}
"""


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class NatsTarget(Target):
    """A plain NATS server: no log, nothing to resume from."""

    dialect = Dialect.NATS

    def __init__(self, setup: Setup, counters: Counters) -> None:
        super().__init__("nats", setup, counters)
        self._tcp_port = 0
        self._pid = 0

    @staticmethod
    def installed() -> bool:
        """Whether there is a ``nats-server`` on the path."""
        return shutil.which("nats-server") is not None

    def _start(self, directory: Path) -> None:
        self._tcp_port, self.port = free_port(), free_port()
        config = directory / "nats.conf"
        config.write_text(_CONFIG.format(tcp=self._tcp_port, websocket=self.port))
        log = self._stack.enter_context((directory / "log").open("wb"))
        process = spawn(
            ["nats-server", "-c", str(config)], self._setup.server_cores, output=log
        )
        self._stack.callback(end, process)
        self._pid = process.pid
        ports = (self._tcp_port, self.port)
        wait_until(lambda: all(map(_listens, ports)), "nats-server listens", 10)

    @property
    def servers(self) -> dict[str, int]:
        return {"nats": self._pid}

    def feed(self, sessions: Sequence[str], **options: Any) -> Feed:
        config: dict[str, object] = {"kind": "nats", "port": self._tcp_port}
        return self._publishers(sessions, options.get("publishers", 1), config)
