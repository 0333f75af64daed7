"""Which edge answers below which first segment of the path."""

from __future__ import annotations

from broker.worker.edges.edge import Edge
from broker.worker.edges.native import NativeEdge
from broker.worker.edges.parts import Parts


def make_edges(parts: Parts) -> dict[str, Edge]:
    """All that the settings ask for."""
    edges: dict[str, Edge] = {}
    edges["v1"] = NativeEdge(
        parts.settings, parts.doorway, parts.commands.handle, parts.history.handle
    )
    return edges
