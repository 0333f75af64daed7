"""One socket of the fleet."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable

from loadtest.fleet import dialects, wire
from loadtest.fleet.account import Account
from loadtest.fleet.dialects import Dialect, Spec
from loadtest.fleet.tally import Stream

_IP_BIND_ADDRESS_NO_PORT = 24
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

SUBSCRIBE_AT_ONCE = 64


class Client(Stream):
    """A connection, from ``connect`` to its end.

    Attributes:
        handler: What the loop calls when the socket is ready.
        head: The HTTP response so far; later the unfinished frame if it has books.
        account: Books of single frames; None where chunks are only counted.
        group: The name under which commands reach it.
        started_ns: When ``connect`` was called.
        joined: Whether it receives its session.
        awaiting: Subscriptions asked for and not answered.
    """

    __slots__ = (
        "_unasked",
        "account",
        "awaiting",
        "checked",
        "dialect",
        "group",
        "handler",
        "head",
        "joined",
        "socket",
        "spec",
        "started_ns",
    )

    def __init__(
        self, dialect: Dialect, spec: Spec, group: str, account: Account | None
    ) -> None:
        super().__init__(spec.ordinal)
        self.dialect = dialect
        self.spec = spec
        self.group = group
        self.account = account
        self.head = b""
        self.joined = False
        self.checked = not spec.sessions
        self.started_ns = 0
        self.awaiting = 0
        self._unasked = spec.sessions
        self.handler: Callable[[Client], None]
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)

    def fileno(self) -> int:
        """The descriptor, for epoll."""
        return self.socket.fileno()

    def connect(self, source: str, port: int, now_ns: int) -> None:
        """Begin to connect from address *source*.

        Raises:
            OSError: It failed at once.
        """
        self.started_ns = now_ns
        # Else each bind to port 0 takes a port that no other connection may have.
        self.socket.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        self.socket.bind((source, 0))
        code = self.socket.connect_ex(("127.0.0.1", port))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, errno.errorcode[code])

    def send(self, data: bytes) -> None:
        """Send a few bytes; what a full socket does not take is an error.

        Raises:
            OSError: The connection is gone or full.
        """
        if self.socket.send(data) != len(data):
            raise OSError(errno.ENOBUFS, "the socket took only a part")

    def request(self) -> None:
        """Send the upgrade request."""
        path = dialects.path(self.dialect, self.spec)
        host, port = self.socket.getpeername()
        self.send(wire.upgrade_request(f"{host}:{port}", path))

    def greet(self) -> None:
        """Send what follows the upgrade."""
        words = dialects.greeting(self.dialect, self.spec)
        if words:
            self.send(words)
        self.subscribe_next(0)

    def subscribe_next(self, answered: int) -> None:
        """Ask for more sessions when those asked for before are answered."""
        self.awaiting -= answered
        if self.awaiting == 0 and self._unasked:
            names = self._unasked[:SUBSCRIBE_AT_ONCE]
            self._unasked = self._unasked[SUBSCRIBE_AT_ONCE:]
            self.awaiting = len(names)
            self.send(dialects.subscribe_frames(names))

    @property
    def subscribed(self) -> bool:
        """Whether every subscription by command was answered."""
        return self.awaiting == 0 and not self._unasked

    def cut(self) -> None:
        """Close without a word, as when a cable is pulled: a reset, no close frame."""
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.socket.close()
