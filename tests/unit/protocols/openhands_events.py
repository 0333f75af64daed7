"""Entries with events of OpenHands V1, for tests."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from broker.entry import Event

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "kind", "key", "value", "id"])
            | st.text(max_size=3),
            inner
            | st.sampled_from(
                ["auth", "user", "full_state", "ConversationStateUpdateEvent"]
            ),
            max_size=4,
        )
    ),
    max_leaves=12,
)
"""Values with names and words that mean something in this protocol."""


def entry(data: bytes, *, name: bytes = b"oh_event", transient: bool = False) -> Event:
    return Event(name, data, b"", b"", b"", transient)


def state(key: str, value: object) -> bytes:
    kind = "ConversationStateUpdateEvent"
    return json.dumps({"kind": kind, "key": key, "value": value}).encode()
