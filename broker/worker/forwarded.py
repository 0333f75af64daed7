"""Who a request comes from where proxies stand in between. Pure: no loop, no socket.

What a proxy says of its client is a header, which anybody can send: it counts only if
the socket's own peer is one of the proxies that the settings trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from aiohttp import hdrs, web
from multidict import CIMultiDict

from broker.config import Settings

HOPS_MAX = 16
"""Entries of X-Forwarded-For that are looked at: a client may send thousands."""

_Address = IPv4Address | IPv6Address


class Forwarded:
    """Reads ``X-Forwarded-For`` and ``X-Forwarded-Host`` of trusted proxies.

    Args:
        settings: ``trusted_proxies`` says whose; nobody's by default.
    """

    def __init__(self, settings: Settings) -> None:
        self._networks = settings.trusted_networks
        # Where only this machine is let in, the name is all that tells a page that was
        # led here by its DNS, and a page may set this header.
        self._believes_host = settings.auth != "none" or settings.allow_insecure

    def see_through(self, request: web.BaseRequest) -> web.BaseRequest:
        """The request as its client sent it to the first of the trusted proxies.

        Its ``remote`` is the address of that client, its ``Host`` the name that the
        client used, where the proxy tells it. From anybody else it stays as it is.
        """
        if not self._networks:
            return request
        peer = read_address(request.remote or "")
        if peer is None or not self._trusts(peer):
            return request
        hops = request.headers.getall(hdrs.X_FORWARDED_FOR, [])
        remote = str(self._client(peer, hops))
        host = _last(request.headers.getall(hdrs.X_FORWARDED_HOST, []))
        if not host or not self._believes_host:
            return request.clone(remote=remote)
        headers = CIMultiDict(request.headers)
        headers[hdrs.HOST] = host
        # The copy is encoded strictly, and a cookie may hold bytes of any kind.
        clean = CIMultiDict((name, _printable(text)) for name, text in headers.items())
        return request.clone(remote=remote, headers=clean)

    def _client(self, peer: _Address, hops: Sequence[str]) -> _Address:
        """The nearest address that is not a proxy's; each proxy adds at the right."""
        nearest = peer
        for text in reversed(",".join(hops).rsplit(",", HOPS_MAX)[-HOPS_MAX:]):
            hop = read_address(text)
            if hop is None:
                break
            nearest = hop
            if not self._trusts(hop):
                break
        return nearest

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


def read_address(text: str) -> _Address | None:
    """An address as it may stand in ``X-Forwarded-For``, or None.

    Some proxies add the port; that of IPv6 follows a bracket. An IPv4 address within
    IPv6, as a socket for both shows it, is the IPv4 address.
    """
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None  # It means something on one machine only.
        return address.ipv4_mapped or address
    return address


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _last(values: Sequence[str]) -> str:
    return values[-1].rpartition(",")[2].strip() if values else ""
