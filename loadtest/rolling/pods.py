"""Brokers as pods behind HAProxy with the configuration of ``deploy/haproxy``."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from shutil import which
from typing import IO

from broker.store.embedded import free_port
from loadtest.child import ChildFailed, end, spawn, wait_until
from loadtest.setup import Setup

PODS = 3
CONFIGURATION = Path(__file__).parents[2] / "deploy" / "haproxy" / "haproxy.cfg"
# HAProxy reserves two descriptors for each client that it may have.
_MAXCONN = 8000
_START_S = 60.0
_UP = re.compile(r'^haproxy_server_status\{[^}]*state="UP"[^}]*\} 1$', re.MULTILINE)


def find_haproxy() -> str | None:
    """HAProxy on this machine; Debian's is not on the PATH of every user."""
    return which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Pods:
    """Some brokers, each with an address of its own, and HAProxy in front.

    Args:
        setup: Cores: brokers have those of servers, HAProxy those of the load.
        redis_url: Where all of them read.
        directory: For logs.
        env: Settings of each broker.

    Attributes:
        port: Where clients connect, on 127.0.0.1.
    """

    def __init__(
        self, setup: Setup, redis_url: str, directory: Path, env: Mapping[str, str]
    ) -> None:
        self.port = free_port()
        self._setup = setup
        self._directory = directory
        self._status_port = free_port()
        self._pod_port, self._admin_port = free_port(), free_port()
        self._stack = contextlib.ExitStack()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("BROKER_")}
        self._env = {
            **inherited,
            "BROKER_PORT": str(self._pod_port),
            "BROKER_ADMIN_PORT": str(self._admin_port),
            "BROKER_REDIS_URL": redis_url,
            "BROKER_LOG_FORMAT": "json",
            "BROKER_LOG_LEVEL": "error",
            "BROKER_TRUSTED_PROXIES": "127.0.0.1",
            **env,
        }
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all pods, then HAProxy, and wait until it has found them ready."""
        for number in range(PODS):
            self._start_pod(number)
        program = find_haproxy()
        assert program is not None, "haproxy is not on this machine"
        env = {f"BROKER_{n + 1}": f"{host(n)}:{self._pod_port}" for n in range(PODS)}
        env |= {
            "LISTEN": f"127.0.0.1:{self.port}",
            "STATUS_LISTEN": f"127.0.0.1:{self._status_port}",
            "ADMIN_PORT": str(self._admin_port),
            "MAXCONN": str(_MAXCONN),
            "SLOW_START": "3s",
        }
        command = [program, "-db", "-f", str(CONFIGURATION)]
        cores = self._setup.load_cores
        process = spawn(command, cores, env=env, output=self._log("haproxy"))
        self._stack.callback(end, process)
        self.wait_up(PODS)

    def replace(self, number: int) -> None:
        """End one pod by SIGTERM, start another one in its place.

        Raises:
            ChildFailed: It did not end well, or its successor is not ready.
        """
        process = self._running[number]
        process.send_signal(signal.SIGTERM)
        status = process.wait(_START_S * 2)
        if status != 0:
            raise ChildFailed(f"pod {number} ended with {status}")
        self._start_pod(number)
        self.wait_up(PODS)

    def wait_up(self, count: int) -> None:
        """Wait until HAProxy sends newcomers to *count* pods."""
        wait_until(lambda: self._up() == count, f"{count} pods are up", _START_S, 0.1)

    def _up(self) -> int:
        try:
            return len(_UP.findall(_get("127.0.0.1", self._status_port, "/metrics")[1]))
        except OSError:
            return 0

    def _start_pod(self, number: int) -> None:
        env = {
            **self._env,
            "BROKER_HOST": host(number),
            "BROKER_ADMIN_HOST": host(number),
        }
        process = spawn(
            [sys.executable, "-m", "broker", "serve"],
            self._setup.server_cores,
            env=env,
            output=self._log("pods"),
            cwd=str(self._directory),  # where no .env lies
        )
        self._stack.callback(end, process)
        self._running[number] = process

    def _log(self, name: str) -> IO[bytes]:
        return self._stack.enter_context((self._directory / name).open("ab"))

    def complaints(self) -> list[str]:
        """Lines that the pods logged as errors."""
        return (self._directory / "pods").read_text().splitlines()

    def stop(self) -> None:
        """End everything; a second signal is not waited for."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        self._stack.close()


def host(number: int) -> str:
    """The address of a pod."""
    return f"127.0.0.{11 + number}"


def _get(address: str, port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()
