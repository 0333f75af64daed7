"""Real load balancers in front of brokers, with the configurations of ``deploy/``."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self
from urllib.request import urlopen

from broker.store.embedded import free_port
from tests.harness.client import Address, Refused, WebSocketClient
from tests.harness.programs import program
from tests.harness.servers import BrokerServer, Log

DEPLOY = Path(__file__).parents[2] / "deploy"
HAPROXY = DEPLOY / "haproxy" / "haproxy.cfg"
NGINX = DEPLOY / "nginx" / "nginx.conf"
IDLE_S, HEARTBEAT_S = 4, 0.8
"""How long silence may last on the way to a broker, and how often one speaks."""
_START_S = 20.0
_METRIC = re.compile(r"^(haproxy_server_\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)


class Balancer(ABC):
    """A process that forwards; a context manager.

    Attributes:
        public: Where clients connect.
        log: What it printed.
    """

    log: Log

    def __init__(self) -> None:
        self.public: Address = ("127.0.0.1", free_port())
        self._process: subprocess.Popen[bytes] | None = None

    def _spawn(self, command: Sequence[str], environment: dict[str, str]) -> None:
        # It ends with the tests, however those end.
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", *command],
            env={"PATH": os.environ["PATH"], **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.log = Log(self._process.stdout)

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Ask again and again until it holds; the answer is another process's state."""
        deadline = time.monotonic() + _START_S
        while not holds():
            assert self._process is not None
            assert self._process.poll() is None, self.log.tail()
            assert time.monotonic() < deadline, f"no {what}:\n{self.log.tail()}"
            time.sleep(0.02)

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(self.public) == 0

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it forwards."""

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self.log.join()


class HAProxy(Balancer):
    """HAProxy with ``deploy/haproxy/haproxy.cfg``, its values by environment.

    Args:
        pods: Addresses of the brokers.
        admin_port: Of each of them.
        values: More variables of the configuration.
    """

    def __init__(
        self, pods: Sequence[Address], admin_port: int, **values: object
    ) -> None:
        super().__init__()
        self.status: Address = ("127.0.0.1", free_port())
        self._pods = len(pods)
        self._environment = {
            "LISTEN": _text(self.public),
            "STATUS_LISTEN": _text(self.status),
            "ADMIN_PORT": str(admin_port),
            "MAXCONN": "4000",
            "CHECK_EVERY": "200ms",
            "SLOW_START": "1s",
            **{f"BROKER_{n}": _text(pod) for n, pod in enumerate(pods, 1)},
            **{name: str(value) for name, value in values.items()},
        }

    def start(self) -> None:
        """Start it and wait until it has found every pod ready."""
        self._spawn([program("haproxy"), "-db", "-f", str(HAPROXY)], self._environment)
        self.wait_until(self._is_listening, "listening socket")
        self.wait_until(lambda: all(self.is_up), "ready pods")

    @property
    def is_up(self) -> list[bool]:
        """Of each pod, whether newcomers are sent there."""
        return [up == 1 for up in self._values("status", 'state="UP"')]

    @property
    def sessions(self) -> list[int]:
        """Of each pod, how many connections it has through this."""
        return [int(count) for count in self._values("current_sessions")]

    @property
    def weights(self) -> list[float]:
        """Of each pod, the part of newcomers that it gets; a new pod's grows."""
        return self._values("weight")

    def _values(self, name: str, label: str = "") -> list[float]:
        with urlopen(f"http://{_text(self.status)}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = {
            labels: float(value)
            for metric, labels, value in _METRIC.findall(text)
            if metric == f"haproxy_server_{name}" and label in labels
        }
        pods = [f'server="broker-{n}"' for n in range(1, self._pods + 1)]
        return [v for pod in pods for labels, v in found.items() if pod in labels]


class Nginx(Balancer):
    """nginx with ``deploy/nginx/nginx.conf`` and two files of a test's own beside it.

    Args:
        pods: Addresses of the brokers.
        directory: For its files.
        idle_s: When a silent connection is cut.
    """

    def __init__(
        self, pods: Sequence[Address], directory: Path, idle_s: float = 75
    ) -> None:
        super().__init__()
        self._directory = directory
        shutil.copy(NGINX, directory)
        # What an operator would edit; everything else is as it is shipped.
        pods_conf = (NGINX.parent / "pods.conf").read_text()
        pods_conf = re.sub(r"(?m)^ *server .*\n", "", pods_conf)
        servers = "".join(f"    server {_text(pod)} fail_timeout=1s;\n" for pod in pods)
        pods_conf = pods_conf.replace("least_conn;\n", f"least_conn;\n{servers}")
        pods_conf = pods_conf.replace("75s", f"{int(idle_s * 1000)}ms")
        (directory / "pods.conf").write_text(pods_conf)
        (directory / "listen.conf").write_text(f"listen {_text(self.public)};\n")

    def start(self) -> None:
        """Start it and wait until it listens."""
        words = ["-p", str(self._directory), "-c", str(self._directory / "nginx.conf")]
        self._spawn([program("nginx"), *words, "-g", "daemon off;"], {})
        self.wait_until(self._is_listening, "listening socket")


class Pods:
    """Brokers with a worker each, as pods have it: an address of its own, one port.

    Args:
        count: How many.
        start: Starts one, by its settings.
        settings: Of each of them.
    """

    def __init__(
        self, count: int, start: Callable[..., BrokerServer], **settings: object
    ) -> None:
        self._start = start
        self._hosts = [f"127.0.0.{11 + n}" for n in range(count)]
        self._ports = [free_port() for _ in self._hosts]
        self.admin_port = free_port()
        self._settings = {
            "workers": 1,
            "trusted_proxies": "127.0.0.1",
            "admin_port": self.admin_port,
            **settings,
        }
        self.brokers = [self._run(n) for n in range(count)]

    def _run(self, number: int) -> BrokerServer:
        host = self._hosts[number]
        return self._start(
            host=host, port=self._ports[number], admin_host=host, **self._settings
        )

    @property
    def addresses(self) -> list[Address]:
        """Where clients would connect."""
        return list(zip(self._hosts, self._ports, strict=True))

    def leave(self) -> None:
        """Tell all to end; whoever stops them later hurries them."""
        for broker in self.brokers:
            broker.signal(signal.SIGTERM)

    def replace(self, number: int) -> None:
        """Start a new broker in the place of one that has ended."""
        self.brokers[number] = self._run(number)


async def visit(at: Address, source: str, forwarded_for: str = "") -> int:
    """Come from a page of another site; the status of the answer.

    101 is for who is told by a close code, which only so many of one address are.

    Args:
        at: Where to.
        source: The client's address.
        forwarded_for: What it says of itself in ``X-Forwarded-For``.
    """
    headers = [("Origin", "https://evil.example")]
    if forwarded_for:
        headers.append(("X-Forwarded-For", forwarded_for))
    try:
        client = await WebSocketClient.connect(
            at, "/v1/ws/s1", headers=headers, source=source
        )
    except Refused as refused:
        return refused.status
    client.cut()
    return 101


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
