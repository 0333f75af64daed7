"""Lua scripts: each is one decision that Redis takes as a whole.

A script touches keys of one hash slot, and all its times are Redis' own.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

import msgspec

from broker.store.connection import Command, Connection


class Script(msgspec.Struct, frozen=True):
    """One script.

    Attributes:
        name: The name of its file.
        text: What Redis runs.
        sha: How Redis knows it once it was loaded.
    """

    name: str
    text: str
    sha: str

    def call(
        self, keys: tuple[bytes | str, ...], *arguments: bytes | str | int
    ) -> Command:
        """The command that runs it, on a connection that `load_scripts` has seen."""
        return (b"EVALSHA", self.sha, len(keys), *keys, *arguments)


@cache
def script(name: str) -> Script:
    """The script in ``scripts/<name>.lua``."""
    path = resources.files("broker.store") / "scripts" / f"{name}.lua"
    text = path.read_text(encoding="utf-8")
    # The name of a script, not a protection of anything.
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name, text, sha)


async def load_scripts(connection: Connection, *names: str) -> None:
    """Make the server know the scripts *names*.

    Done once per connection: a server that has forgotten them was restarted, and so
    the connection was lost. Nothing is loaded in between, since a call that is sent
    again would run behind those that were sent after it.

    Raises:
        StoreUnavailable: The connection ended, or the server is not ready.
        StoreRefused: The server takes no scripts.
    """
    await connection.call_all(
        *((b"SCRIPT", b"LOAD", script(name).text) for name in names)
    )
