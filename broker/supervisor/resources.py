"""What all processes of a pod share, made once by the supervisor."""

from __future__ import annotations

import os
import resource
import secrets
import socket

from broker.config import Settings
from broker.errors import ConfigError
from broker.metrics.slots import Slots
from broker.process import Boot
from broker.ring.board import Board
from broker.ring.doorbell import Doorbell
from broker.ring.segment import Segment

REQUESTS_BACKLOG = 512
"""Workers that may be waiting to connect while the reader is being restarted."""

READER_ROW = 0


class Resources:
    """Memory, doorbells and sockets; children inherit their descriptors.

    They outlive every child, so a reader that is started again finds the same ring
    and the same socket for requests, and the workers keep their port.

    Attributes:
        pod: A name of this start, unique among pods: 16 hexadecimal digits.
        worker_count: How many workers there are.
        supervisor_row: The supervisor's row on the board and in the metric slots.
        connections_limit: How many connections all workers together may have.
        public_host: The address that clients connect to.
        public_port: The port that clients connect to.
    """

    def __init__(self, settings: Settings) -> None:
        """Make everything.

        Raises:
            ConfigError: The public address cannot be used or is taken.
        """
        self._settings = settings
        self.pod = secrets.token_hex(8)
        self.worker_count = settings.workers
        self.supervisor_row = settings.workers + 1
        self.connections_limit = settings.workers * settings.max_connections
        # Bound and never listening: it takes no connection, but it holds the port
        # while no worker does. The workers bind the same port by SO_REUSEPORT.
        self._public = _reserve(settings.host, settings.port)
        self.public_host = settings.host
        self.public_port: int = self._public.getsockname()[1]
        self._requests_address = f"\0broker-{self.pod}"
        self._requests = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._requests.bind(self._requests_address)
        self._requests.listen(REQUESTS_BACKLOG)
        self.segment = Segment.create(settings.ring_bytes)
        self.board = Board.create(settings.workers)
        self.slots = Slots.create(settings.workers)
        self._doorbells = [Doorbell.create() for _ in range(settings.workers)]

    def boot(self, row: int) -> Boot:
        """What the process of *row* is told: 0 is the reader, the others workers."""
        is_reader = row == READER_ROW
        return Boot(
            role="reader" if is_reader else "worker",
            index=row,
            worker_count=self.worker_count,
            pod=self.pod,
            settings=self._settings.for_boot(),
            ring_fd=self.segment.fd,
            board_fd=self.board.fd,
            metrics_fd=self.slots.fd,
            doorbell_fds=[bell.fd for bell in self._doorbells],
            requests_fd=self._requests.fileno() if is_reader else -1,
            requests_address="" if is_reader else self._requests_address,
            public_port=self.public_port,
        )

    def close(self) -> None:
        """Give everything back; only after the last child is gone."""
        self._public.close()
        self._requests.close()
        for shared in (self.segment, self.board, self.slots):
            shared.close()
            os.close(shared.fd)
        for bell in self._doorbells:
            os.close(bell.fd)


def raise_descriptor_limit() -> None:
    """Let this process and its children open as many files as they may.

    The soft limit is 1024 in many shells, for the sake of ``select``, which nobody
    uses here; each connection takes one.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _reserve(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if port:
            _refuse_if_taken(family, kind, address)
        reserved = socket.socket(family, kind)
        try:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind(address)
        except OSError:
            reserved.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"BROKER_HOST={host} BROKER_PORT={port} cannot be used: {error.strerror}"
        ) from error
    return reserved


def _refuse_if_taken(
    family: socket.AddressFamily, kind: socket.SocketKind, address: object
) -> None:
    # SO_REUSEPORT would quietly share the port with another broker of the same user,
    # and each would get a part of the other's clients. Without it the kernel objects.
    with socket.socket(family, kind) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)  # type: ignore[arg-type]
