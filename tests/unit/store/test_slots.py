"""Which slot a key has, and how a pipeline is cut for the nodes of a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from broker.errors import StoreUnavailable
from broker.store.slots import key_of, slot_of, split
from broker.store.topology import parse_slots, read_target

# From CLUSTER KEYSLOT of Redis 7.0.15.
KNOWN_SLOTS = {
    b"": 0,
    b"foo": 12182,
    b"123456789": 12739,
    b"broker:commands": 10585,
    b"{user1000}.following": 3443,
    b"{user1000}.followers": 3443,
    b"foo{}{bar}": 8363,
    b"foo{{bar}}zap": 4015,
    b"foo{bar}{zap}": 5061,
    b"broken{tag": 8955,
}


@pytest.mark.parametrize(("key", "slot"), KNOWN_SLOTS.items())
def test_slots_are_those_of_redis(key: bytes, slot: int) -> None:
    """Braces count as the cluster specification has it."""
    assert slot_of(key) == slot


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("XADD", "k", "*", "a", 1), b"k"),
        ((b"XRANGE", b"k", "-", "+"), b"k"),
        (("XINFO", "STREAM", "k"), b"k"),
        (("xgroup", "CREATE", "k", "g", "$"), b"k"),
        (("EVALSHA", "sha", 2, "k", "l", "argument"), b"k"),
        (("EVAL", "text", 1, "k"), b"k"),
        (("XREAD", "COUNT", 1, "STREAMS", "k", "0"), b"k"),
        (("XREADGROUP", "GROUP", "g", "c", "STREAMS", "k", ">"), b"k"),
        (("BLPOP", "k", "1.5"), b"k"),
        (("TIME",), None),
        (("PUBLISH", "channel", "text"), None),
        (("SCRIPT", "LOAD", "text"), None),
    ],
)
def test_first_key_is_found(
    command: tuple[bytes | str | int, ...], key: bytes | None
) -> None:
    """Wherever the command has it."""
    assert key_of(command) == key


def test_pipeline_is_cut_where_another_key_begins() -> None:
    """What has no key goes with what follows; a transaction stays whole."""
    commands: list[Any] = [
        ("TIME",),
        ("GET", "foo"),
        ("MULTI",),
        ("TIME",),
        ("GET", "foo"),
        ("GET", "foo"),
        ("EXEC",),
        ("SET", "bar", 1),
        ("PUBLISH", "channel", "text"),
    ]
    atoms = list(split(commands))

    assert [atom.commands for atom in atoms] == [
        commands[:2],
        commands[2:7],
        commands[7:8],
        commands[8:],
    ]
    assert [atom.slot for atom in atoms] == [12182, 12182, 5061, -1]


def test_owners_are_read_from_the_answer_of_a_node() -> None:
    """Without an address it is the host that was asked; replicas do not count."""
    first = [0, 8191, [b"10.0.0.1", 7000, b"a" * 40, []], [b"10.0.0.4", 7003, b"d"]]
    second = [8192, 16382, [None, 7001, b"b" * 40, []]]
    topology = parse_slots([first, second], "here", 7)

    assert topology.epoch == 7
    assert topology.nodes == {"a" * 40: ("10.0.0.1", 7000), "b" * 40: ("here", 7001)}
    assert topology.owners[8191:8193] == ["a" * 40, "b" * 40]
    assert topology.owners[16383] == ""


def test_cluster_without_slots_is_not_ready() -> None:
    """Its nodes have been started and not been put together yet."""
    with pytest.raises(StoreUnavailable):
        parse_slots([], "here", 0)


@pytest.mark.parametrize(
    ("where", "node"),
    [
        ("3999 127.0.0.1:6381", ("127.0.0.1", 6381)),
        ("3999 redis-1.example:6381", ("redis-1.example", 6381)),
        ("3999 2001:db8::1:6381", ("2001:db8::1", 6381)),
        ("3999 :6381", ("asked", 6381)),
    ],
)
def test_target_of_a_redirection_is_read(where: str, node: tuple[str, int]) -> None:
    """Also of an address with colons, and of a node that names only its port."""
    assert read_target(where, "asked") == node
