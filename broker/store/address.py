"""A Redis URL, taken apart."""

from __future__ import annotations

import re
import ssl
from typing import Any, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from broker.errors import ConfigError

Kind: TypeAlias = Literal["server", "sentinel", "cluster"]
Node: TypeAlias = tuple[str, int]
"""Host and port."""

SCHEMES: dict[str, Kind] = {
    "redis": "server",
    "rediss": "server",
    "unix": "server",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
}
_OPTIONS = (
    "db",
    "sentinel_username",
    "sentinel_password",
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_certfile",
    "ssl_keyfile",
)
_IGNORED = dict.fromkeys(map(ord, "\t\r\n"))
"""As `urlsplit` does it: what a file with a secret may end with, or be broken by."""
_AUTHORITY = re.compile(r"([^:/?#]+://)(?:([^/?#]*)@)?([^/?#]*)")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server is, or who knows where it is, and how to log in.

    Attributes:
        kind: One server; or whom to ask for it: Sentinels, or the nodes of a cluster.
        nodes: Whom to ask, in this order; empty for one server.
        service: The name under which Sentinels know the primary.
        host: Host name; empty for a Unix socket, and where `nodes` are asked.
        port: TCP port.
        path: Path of the Unix socket; empty for TCP.
        username: ACL user, or empty for the default user.
        password: Secret; empty if none is needed.
        db: Number of the database.
        tls: Whether the connection is encrypted.
        options: The ``ssl_...`` options of the query.
    """

    kind: Kind = "server"
    nodes: tuple[Node, ...] = ()
    service: str = ""
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
        scheme = "rediss" if self.tls else "redis"
        if self.kind == "server":
            return f"{scheme}://{_shown(self.host, self.port)}/{self.db}"
        nodes = ",".join(_shown(*node) for node in self.nodes)
        where = f"{self.service}/{self.db}" if self.service else str(self.db)
        return f"{scheme}+{self.kind}://{nodes}/{where}"

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
    """Read the URL of a server, of Sentinels or of a cluster.

    - ``redis://[user][:password]@host[:port][/db]``; ``rediss://`` for TLS;
    - ``unix://[user][:password]@/path?db=0``;
    - ``redis+sentinel://[user][:password]@host[:port],.../service[/db]``: the primary
      of *service*, as the Sentinels name it; these have a log-in of their own in
      ``?sentinel_username=`` and ``sentinel_password=``;
    - ``redis+cluster://[user][:password]@host[:port],...``: some nodes of a cluster.

    Percent-encoded where needed; ``rediss+...`` for TLS.

    Raises:
        ConfigError: The URL is none of these. The message does not repeat the URL,
            which may hold a password.
    """
    # Not all for `urlsplit`: of several hosts it knows one, and newer Pythons refuse
    # brackets in the others and in a password.
    scheme, login, hosts, rest = _cut(url)
    username, _, password = login.partition(":")
    parts = urlsplit(scheme + rest)
    kind = SCHEMES.get(parts.scheme)
    if kind is None:
        raise ConfigError(
            "the Redis URL must begin with redis://, rediss:// or unix://, or with "
            "redis+sentinel://, redis+cluster:// and the like for rediss"
        )
    options = _options(parts.query)
    common: dict[str, Any] = {
        "kind": kind,
        "username": unquote(username),
        "password": unquote(password),
        "tls": parts.scheme.startswith("rediss"),
    }
    if parts.scheme == "unix":
        if not parts.path:
            raise ConfigError("a unix:// URL needs the path of the socket")
        db = _database(options.pop("db", ""))
        return Address(path=unquote(parts.path), db=db, options=options, **common)
    service, db_text = _path(parts.path, kind)
    db = _database(db_text or options.pop("db", ""))
    options.pop("db", None)
    if kind == "cluster" and db:
        raise ConfigError("a cluster has no database but 0")
    common |= {"db": db, "options": options}
    nodes = _nodes(hosts, 26379 if kind == "sentinel" else 6379)
    if kind == "server":
        if len(nodes) > 1:
            raise ConfigError("only sentinel and cluster URLs have several hosts")
        ((host, port),) = nodes
        return Address(host=host, port=port, **common)
    return Address(nodes=nodes, service=service, **common)


def _cut(url: str) -> tuple[str, str, str, str]:
    """Scheme and ``://``, login, hosts, and what comes behind them."""
    url = url.strip().translate(_IGNORED)
    found = _AUTHORITY.match(url)
    scheme, login, hosts = found.groups("") if found else ("", "", "")
    rest = url[found.end() :] if found else url
    if "@" in rest:
        # What stands there may be a part of the password: nothing of it is shown.
        raise ConfigError(
            "the Redis URL has an @ behind its hosts: write / ? # in user and password "
            "as %2F %3F %23, and an @ that belongs there as %40"
        )
    return scheme, login, hosts, rest


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query))
    if unknown := sorted(options.keys() - set(_OPTIONS)):
        allowed = ", ".join(_OPTIONS)
        raise ConfigError(
            f"the Redis URL has the option {unknown[0]!r}; allowed are {allowed}"
        )
    if options.get("ssl_cert_reqs", "required") not in ("required", "none"):
        raise ConfigError("ssl_cert_reqs in the Redis URL must be required or none")
    return options


def _nodes(hosts: str, default_port: int) -> tuple[Node, ...]:
    """Host and port of each node."""
    nodes = []
    for text in hosts.split(","):
        try:
            one = urlsplit(f"//{text}")
            port = one.port
        except ValueError:
            raise ConfigError("the Redis URL has no valid host and port") from None
        nodes.append(
            (one.hostname or "127.0.0.1", default_port if port is None else port)
        )
    return tuple(nodes)


def _path(path: str, kind: Kind) -> tuple[str, str]:
    """The service and the database, as they stand in the URL."""
    text = path.strip("/")
    if kind != "sentinel":
        return "", text
    service, _, db = text.partition("/")
    if not service:
        raise ConfigError("a sentinel URL needs the service: ...@host:26379/mymaster")
    return unquote(service), db


def _database(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigError("the database in the Redis URL must be a number")
    return int(text)


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
