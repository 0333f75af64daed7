"""Which edge answers below which first segment of the path."""

from __future__ import annotations

from broker.worker.edges.console import ConsoleEdge
from broker.worker.edges.council import CouncilEdge
from broker.worker.edges.edge import Edge
from broker.worker.edges.native import NativeEdge
from broker.worker.edges.openhands_rest import SEGMENTS, OpenHandsRest
from broker.worker.edges.openhands_v0 import V0Edge
from broker.worker.edges.openhands_v1 import OpenHandsSockets
from broker.worker.edges.parts import Parts
from broker.worker.snapshots import Snapshots


def make_edges(parts: Parts) -> dict[str, Edge]:
    """All that the settings ask for."""
    edges: dict[str, Edge] = {}
    edges["v1"] = NativeEdge(
        parts.settings, parts.doorway, parts.commands.handle, parts.history.handle
    )
    if parts.settings.console:
        edges["console"] = ConsoleEdge(parts)
    if "openhands" in parts.settings.served_protocols:
        edges["socket.io"] = V0Edge(parts)
        snapshots = Snapshots(parts.archive, parts.settings.max_event_bytes)
        edges |= dict.fromkeys(SEGMENTS, OpenHandsRest(parts, snapshots))
        edges["sockets"] = OpenHandsSockets(parts, snapshots)
    if "council" in parts.settings.served_protocols:
        edges["ws"] = CouncilEdge(parts)
    return edges
