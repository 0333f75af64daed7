"""Finds the primary by asking Sentinels.

A Sentinel answers for itself: it may be cut off and name a primary that is none any
more. So what it names is asked for its role, and the next Sentinel for another name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeVar

import msgspec

from broker.errors import StoreError, StoreRefused, StoreUnavailable
from broker.store.address import Address, Node

SENTINEL_TIMEOUT_S: Final = 1.0
"""How long one Sentinel may take: there are others, and who waits is offline."""


class Peer(Protocol):
    """What is needed of a connection here."""

    async def call(self, *command: bytes | str | int) -> Any:
        """Send one command and return its reply."""

    def close(self) -> None:
        """End it."""


Open = TypeVar("Open", bound=Peer)
_orders: dict[tuple[Node, ...], list[Node]] = {}
"""Whom to ask first, for all connections of this process: who knew it last time."""


async def open_primary(
    address: Address, connect: Callable[[Address], Awaitable[Open]]
) -> Open:
    """Connect to the primary of ``address.service``.

    Args:
        address: Of the Sentinels.
        connect: Opens a connection to one server and logs in.

    Raises:
        StoreUnavailable: No Sentinel leads to a primary at the moment; the message
            says why, for each.
        StoreRefused: The primary refuses the log-in.
        ServerUnsuitable: The primary does not speak RESP3.
        ConfigError: The certificates cannot be read.
    """
    reasons = []
    for node in list(_order(address)):
        # Last in turn until it has led somewhere, even if we are cancelled meanwhile.
        _move(address, node, to_front=False)
        try:
            primary = await ask_sentinel(address, node, connect)
            connection = await _open_checked(primary, connect)
        except (OSError, StoreUnavailable) as error:  # TimeoutError is an OSError
            why = str(error) or f"no answer within {SENTINEL_TIMEOUT_S:g} s"
            reasons.append(f"{node[0]}:{node[1]}: {why}")
        else:
            _move(address, node, to_front=True)
            return connection
    why = "; ".join(reasons)
    raise StoreUnavailable(f"{address}: no Sentinel leads to a primary: {why}")


async def ask_sentinel(
    address: Address, node: Node, connect: Callable[[Address], Awaitable[Open]]
) -> Address:
    """Where the primary of ``address.service`` is, as one of the Sentinels knows it.

    Args:
        address: Of the Sentinels.
        node: Which of them to ask.
        connect: See `open_primary`.

    Raises:
        StoreUnavailable: It knows no such service, or refuses to say.
        OSError: It does not answer, or not within ``SENTINEL_TIMEOUT_S``.
        ConfigError: The certificates cannot be read.
    """
    try:
        async with asyncio.timeout(SENTINEL_TIMEOUT_S):
            connection = await connect(_sentinel(address, node))
            try:
                found = await connection.call(
                    "SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service
                )
            finally:
                connection.close()
    except StoreError as error:
        raise StoreUnavailable(str(error)) from error  # Another may know better.
    if found is None:
        raise StoreUnavailable(f"does not know the service {address.service!r}")
    host, port = found
    return msgspec.structs.replace(
        address,
        kind="server",
        nodes=(),
        service="",
        host=host.decode(),
        port=int(port),
    )


async def _open_checked(
    primary: Address, connect: Callable[[Address], Awaitable[Open]]
) -> Open:
    try:
        connection = await connect(primary)
    except OSError as error:
        raise StoreUnavailable(f"names {primary}: {error}") from error
    try:
        role = await connection.call("ROLE")
    except StoreRefused:
        return connection  # Not allowed to ask; whoever uses it looks by INFO.
    except BaseException:
        connection.close()
        raise
    if role[0] != b"master":
        connection.close()
        raise StoreUnavailable(f"names {primary}, which is a {role[0].decode()}")
    return connection


def _sentinel(address: Address, node: Node) -> Address:
    return Address(
        host=node[0],
        port=node[1],
        username=address.options.get("sentinel_username", ""),
        password=address.options.get("sentinel_password", ""),
        tls=address.tls,
        options=address.options,
    )


def _order(address: Address) -> list[Node]:
    return _orders.setdefault(address.nodes, list(address.nodes))


def _move(address: Address, node: Node, *, to_front: bool) -> None:
    order = _order(address)
    order.remove(node)
    order.insert(0 if to_front else len(order), node)
