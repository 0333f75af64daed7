"""Whether Sentinels answer and agree: a dead one is noticed by nobody else."""

from __future__ import annotations

from broker.doctor.finding import Finding, fail, ok, warn
from broker.errors import StoreError
from broker.store.address import Address
from broker.store.connection import Connection
from broker.store.sentinel import SENTINEL_TIMEOUT_S, ask_sentinel


async def check_sentinels(address: Address, name: str) -> Finding:
    """Ask each Sentinel of *address* for the primary.

    Args:
        address: Of the Sentinels.
        name: For ``CLIENT LIST``.
    """

    async def connect(to: Address) -> Connection:
        return await Connection.open(to, client_name=name)

    named: set[str] = set()
    silent = []
    for node in address.nodes:
        try:
            primary = await ask_sentinel(address, node, connect)
            named.add(f"{primary.host}:{primary.port}")
        except (OSError, StoreError) as error:
            why = str(error) or f"no answer within {SENTINEL_TIMEOUT_S:g} s"
            silent.append(f"{node[0]}:{node[1]}: {why}")
    return _judge(len(address.nodes), named, silent)


def _judge(count: int, named: set[str], silent: list[str]) -> Finding:
    if silent:
        text = f"{len(silent)} of {count} Sentinels do not help: {'; '.join(silent)}"
        advice = "see that they run, and that service and log-in in the URL are right"
        if 2 * len(silent) >= count:
            return fail("sentinels", f"{text}. Too few are left to agree", advice)
        return warn("sentinels", text, advice)
    if len(named) > 1:
        return warn(
            "sentinels",
            f"they name different primaries: {' and '.join(sorted(named))}",
            "a failover may be under way; else see that they reach each other",
        )
    return ok("sentinels", f"all {count} name {''.join(named)}")
