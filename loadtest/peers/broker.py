"""The broker with a Redis of its own."""

from __future__ import annotations

import http.client
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from broker.store.embedded import free_port
from loadtest.child import ChildFailed, end, spawn, wait_until
from loadtest.counters import Counters
from loadtest.fleet.dialects import Dialect
from loadtest.peers.redis_server import RedisServer
from loadtest.peers.target import Feed, Target
from loadtest.procstat import children_of, command_line
from loadtest.setup import Setup

KEY_PATTERN = "broker:events:{session}"

# What is no subject of a load test: pings (off for the peers as well), and limits
# that are there to stop one address from doing what a load test does.
_ENV = {
    "BROKER_HOST": "127.0.0.1",
    "BROKER_LOG_FORMAT": "json",
    "BROKER_LOG_LEVEL": "warning",
    "BROKER_HEARTBEAT_S": "3600",
    "BROKER_ACCEPT_RATE_PER_S": "1000000",
    "BROKER_DRAIN_DELAY_S": "0",
    "BROKER_DRAIN_S": "0.5",
}

_METRICS = {
    "events_read": "broker_events_read_total",
    "events_lost": "broker_events_lost_total",
    "replayed": "broker_events_replayed_total",
    "lapped": "broker_ring_lapped_total",
    "doorbell_missed": "broker_doorbell_missed_total",
}
_COMMANDS = ("xread", "xrange", "xrevrange", "xinfo|stream")


class BrokerTarget(Target):
    """``broker serve``: supervisor, reader, workers, and Redis beside them."""

    dialect = Dialect.BROKER

    def __init__(
        self, setup: Setup, counters: Counters, env: Mapping[str, str]
    ) -> None:
        super().__init__("broker", setup, counters)
        self._env = env
        self._admin_port = 0
        self._pid = 0
        self._log = Path()
        self.redis = RedisServer(setup.load_cores)

    def _start(self, directory: Path) -> None:
        self.redis.start(directory, self._stack)
        self.port, self._admin_port = free_port(), free_port()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("BROKER_")}
        env = {
            **inherited,
            **_ENV,
            "BROKER_PORT": str(self.port),
            "BROKER_ADMIN_PORT": str(self._admin_port),
            "BROKER_REDIS_URL": self.redis.url,
            **self._env,
        }
        self._log = directory / "broker.log"
        log = self._stack.enter_context(self._log.open("wb"))
        process = spawn(
            [sys.executable, "-m", "broker", "serve"],
            self._setup.server_cores,
            env=env,
            output=log,
            cwd=str(directory),  # where no .env lies
        )
        self._stack.callback(end, process)
        self._pid = process.pid

        def is_ready() -> bool:
            if process.poll() is not None:
                raise ChildFailed(f"broker serve ended:\n{self._log.read_text()}")
            return self._get("/readyz")[0] == 200

        try:
            wait_until(is_ready, "broker serve is ready", 20, 0.05)
        except ChildFailed as error:
            raise ChildFailed(f"{error}\n{self._log.read_text()[-4000:]}") from None

    def _get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._admin_port, timeout=10
        )
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except ConnectionError:
            return 0, ""
        finally:
            connection.close()

    def counts(self) -> dict[str, float]:
        metrics = self._get("/metrics")[1]
        counts = {key: sum_metric(metrics, name) for key, name in _METRICS.items()}
        calls = self.redis.calls()
        return counts | {f"redis_{name}": calls.get(name, 0) for name in _COMMANDS}

    def stored_bytes(self) -> int:
        return self.redis.used_bytes()

    def complaints(self) -> list[str]:
        # This Redis keeps nothing on purpose, of which the broker warns at start.
        lines = self._log.read_text().splitlines()
        return [line for line in lines if '"redis_setting"' not in line]

    @property
    def servers(self) -> dict[str, int]:
        roles = {"supervisor": self._pid}
        workers = 0
        for pid in sorted(children_of(self._pid)):
            words = command_line(pid)
            if "broker.reader" in words:
                roles["reader"] = pid
            elif "broker.worker" in words:
                workers += 1
                roles[f"worker{workers}"] = pid
        return roles

    @property
    def stores(self) -> dict[str, int]:
        return {"redis": self.redis.pid}

    @property
    def holders(self) -> dict[str, int]:
        return {n: pid for n, pid in self.servers.items() if n.startswith("worker")}

    def feed(self, sessions: Sequence[str], **options: Any) -> Feed:
        config: dict[str, object] = {
            "kind": "redis",
            "port": self.redis.port,
            "key_pattern": KEY_PATTERN,
            "max_length": options.get("max_length", 10_000),
        }
        return self._publishers(sessions, options.get("publishers", 1), config)


def sum_metric(exposition: str, name: str) -> float:
    """The sum of a metric over its labels in Prometheus' text format."""
    line = re.compile(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", re.MULTILINE)
    return sum(float(match[1]) for match in line.finditer(exposition))
