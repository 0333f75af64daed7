"""Runs a supervisor whose children are stand-ins; all that it is told comes as JSON.

``argv`` is the settings, what to run for each role, and other values for constants of
the probe, which a test cannot wait for. A role runs as ``real``, as ``deaf <file>``
(see ``deaf_worker``), or as a stand-in that behaves as the word says.
"""

from __future__ import annotations

import json
import sys

import uvloop

from broker.config import Settings
from broker.logs import configure_logs
from broker.supervisor import probe
from broker.supervisor.supervisor import Addresses, Supervisor


def announce(addresses: Addresses) -> None:
    ports = {"announced": [addresses.public_port, addresses.admin_port]}
    print(json.dumps(ports), flush=True)  # noqa: T201  read by the test


def command(how: str, *arguments: str) -> list[str]:
    module = "deaf_worker" if how == "deaf" else "standin"
    rest = arguments or (how,)
    return [sys.executable, "-m", f"tests.integration.supervisor.{module}", *rest]


def main() -> int:
    settings = Settings(**json.loads(sys.argv[1]))
    configure_logs(settings, process="supervisor")
    behaviour = json.loads(sys.argv[2])
    for name, value in json.loads(sys.argv[3]).items():
        setattr(probe, name, value)
    commands = {
        role: command(*how.split(" ", 1))
        for role, how in behaviour.items()
        if how != "real"
    }
    supervisor = Supervisor(settings, announce=announce, commands=commands)
    return uvloop.run(supervisor.run())


if __name__ == "__main__":
    sys.exit(main())
