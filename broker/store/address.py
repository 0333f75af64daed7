"""A Redis URL, taken apart."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import msgspec

from broker.errors import ConfigError

SCHEMES = ("redis", "rediss", "unix")
_OPTIONS = (
    "db",
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
)


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server is and how to log in.

    Attributes:
        host: Host name; empty for a Unix socket.
        port: TCP port.
        path: Path of the Unix socket; empty for TCP.
        username: ACL user, or empty for the default user.
        password: Secret; empty if none is needed.
        db: Number of the database.
        tls: Whether the connection is encrypted.
        options: The ``ssl_...`` options of the query.
    """

    host: str = ""
    port: int = 6379
    path: str = ""
    username: str = ""
    password: str = ""
    db: int = 0
    tls: bool = False
    options: dict[str, str] = {}

    def __str__(self) -> str:
        """What a log or a message may show: never user or password."""
        if self.path:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.db}"

    def __repr__(self) -> str:
        return f"Address({self})"

    def ssl_context(self) -> ssl.SSLContext | None:
        """How to encrypt, or None for plain TCP and Unix sockets.

        Raises:
            ConfigError: A certificate or key file cannot be read.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(
                cafile=self.options.get("ssl_ca_certs")
            )
            if certificate := self.options.get("ssl_certfile"):
                context.load_cert_chain(certificate, self.options.get("ssl_keyfile"))
        except OSError as error:  # ssl.SSLError is one too
            raise ConfigError(f"{self}: certificates cannot be read: {error}") from None
        if self.options.get("ssl_cert_reqs") == "none":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def parse_url(url: str) -> Address:
    """Read ``redis://``, ``rediss://`` (TLS) or ``unix://``.

    ``redis://[user][:password]@host[:port][/db]`` and
    ``unix://[user][:password]@/path?db=0``; percent-encoded where needed.

    Raises:
        ConfigError: The URL is none of these. The message does not repeat the URL,
            which may hold a password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError("the Redis URL has no valid host and port") from None
    if parts.scheme not in SCHEMES:
        raise ConfigError(
            "the Redis URL must begin with redis://, rediss:// or unix://"
        )
    options = dict(parse_qsl(parts.query))
    if unknown := sorted(options.keys() - set(_OPTIONS)):
        allowed = ", ".join(_OPTIONS)
        raise ConfigError(
            f"the Redis URL has the option {unknown[0]!r}; allowed are {allowed}"
        )
    if options.get("ssl_cert_reqs", "required") not in ("required", "none"):
        raise ConfigError("ssl_cert_reqs in the Redis URL must be required or none")
    common: dict[str, Any] = {
        "username": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "db": _database(parts, options.pop("db", "")),
        "options": options,
    }
    if parts.scheme == "unix":
        if not parts.path:
            raise ConfigError("a unix:// URL needs the path of the socket")
        return Address(path=unquote(parts.path), **common)
    return Address(
        host=parts.hostname or "127.0.0.1",
        port=6379 if port is None else port,
        tls=parts.scheme == "rediss",
        **common,
    )


def _database(parts: SplitResult, option: str) -> int:
    text = option
    if parts.scheme != "unix" and parts.path.strip("/"):
        text = parts.path.strip("/")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise ConfigError("the database in the Redis URL must be a number")
    return int(text)
