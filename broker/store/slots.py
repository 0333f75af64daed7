"""Which slot of a cluster a command is for.

A key's slot is the CRC16 (XMODEM) of its hash tag, else of all of it, modulo 16384, as
the cluster specification of Redis has it.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from broker.store.connection import Command

SLOTS: Final = 16384

_KEYLESS: Final = frozenset(
    (
        b"AUTH CLIENT CLUSTER CONFIG DISCARD EXEC INFO MULTI PING PUBLISH ROLE SCRIPT"
    ).split()
) | frozenset((b"SUBSCRIBE", b"TIME", b"UNSUBSCRIBE"))
_KEY_AT: Final = {b"EVAL": 3, b"EVALSHA": 3, b"XINFO": 2, b"XGROUP": 2}
"""Where the first key stands; 1 for all others that have one."""
_KEY_BEHIND_STREAMS: Final = (b"XREAD", b"XREADGROUP")


class Atom(msgspec.Struct):
    """Commands that one node must get together.

    Attributes:
        commands: One with a key and those without that came right before it, or a
            whole transaction.
        slot: Where they belong; -1 if none of them has a key.
    """

    commands: list[Command]
    slot: int


def slot_of(key: bytes) -> int:
    """The slot of *key*."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


def name_of(command: Command) -> bytes:
    """The first word of *command*, in capitals."""
    return _raw(command[0]).upper()


def key_of(command: Command) -> bytes | None:
    """The first key of *command*; None if it has none."""
    name = name_of(command)
    if name in _KEYLESS:
        return None
    if name in _KEY_BEHIND_STREAMS:
        words = [_raw(word).upper() for word in command]
        return _raw(command[words.index(b"STREAMS") + 1])
    return _raw(command[_KEY_AT.get(name, 1)])


def split(commands: Sequence[Command]) -> Iterator[Atom]:
    """Cut a pipeline into what has to stay together, in order.

    Commands without a key go with what follows them, the last ones alone.
    """
    part: list[Command] = []
    slot = -1
    is_transaction = False
    for command in commands:
        part.append(command)
        key = key_of(command)
        if key is not None and slot < 0:
            slot = slot_of(key)
        name = name_of(command)
        is_transaction = (is_transaction or name == b"MULTI") and name != b"EXEC"
        if slot >= 0 and not is_transaction:
            yield Atom(part, slot)
            part, slot = [], -1
    if part:
        yield Atom(part, slot)


def _raw(word: bytes | str | int) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()
