"""Runs a supervisor whose children are stand-ins; settings come as JSON."""

from __future__ import annotations

import json
import sys

import uvloop

from broker.config import Settings
from broker.logs import configure_logs
from broker.supervisor.supervisor import Addresses, Supervisor


def announce(addresses: Addresses) -> None:
    ports = {"announced": [addresses.public_port, addresses.admin_port]}
    print(json.dumps(ports), flush=True)  # noqa: T201  read by the test


def main() -> int:
    settings = Settings(**json.loads(sys.argv[1]))
    configure_logs(settings, process="supervisor")
    behaviour = json.loads(sys.argv[2])
    commands = {
        role: [sys.executable, "-m", "tests.integration.supervisor.standin", how]
        for role, how in behaviour.items()
    }
    supervisor = Supervisor(settings, announce=announce, commands=commands)
    return uvloop.run(supervisor.run())


if __name__ == "__main__":
    sys.exit(main())
