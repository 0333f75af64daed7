"""Drives the unmodified Python client of OpenHands, for the test beside this.

Runs under a Python of its own (3.12 or newer). Takes orders as JSON lines and answers
each with one; what its callbacks are given is told with the orders that ask for it.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from typing import Any
from uuid import UUID

from openhands.sdk.conversation.impl.remote_conversation import RemoteConversation  # type: ignore[import-not-found]
from openhands.sdk.event.base import Event  # type: ignore[import-not-found]
from openhands.sdk.workspace import RemoteWorkspace  # type: ignore[import-not-found]


class Driver:
    """One conversation, and everything its callback was given."""

    def __init__(self, host: str, key: str, conversation: str) -> None:
        self._workspace = RemoteWorkspace(host=host, api_key=key, working_dir="/")
        self._id = UUID(conversation)
        self._conversation: Any = None
        self._heard: list[str] = []
        self._news = threading.Condition()

    def _hear(self, event: Event) -> None:
        with self._news:
            self._heard.append(event.id)
            self._news.notify_all()

    def attach(self) -> dict[str, object]:
        """Connect to the conversation; what the client then knows of it."""
        self._conversation = RemoteConversation.attach(
            self._workspace, self._id, callbacks=[self._hear], visualizer=None
        )
        state = self._conversation.state
        return self.events() | {
            "status": state.execution_status.value,
            "model": self._conversation.agent.llm.model,
            "max_iterations": self._conversation.max_iteration_per_run,
        }

    def events(self) -> dict[str, object]:
        """The events that the client holds, and what the callback was given."""
        held = [event.id for event in self._conversation.state.events]
        return {"events": held, "heard": list(self._heard)}

    def send(self, text: str) -> dict[str, object]:
        """Say something."""
        self._conversation.send_message(text)
        return {}

    def run(self, timeout_s: float) -> dict[str, object]:
        """Let the agent go on and wait until it has done."""
        self._conversation.run(timeout=timeout_s)
        return self.events() | {
            "status": self._conversation.state.execution_status.value
        }

    def pause(self) -> dict[str, object]:
        """Let the agent pause."""
        self._conversation.pause()
        return {}

    def wait(self, event_id: str, timeout_s: float) -> dict[str, object]:
        """Wait until the callback was given an event."""
        with self._news:
            found = self._news.wait_for(lambda: event_id in self._heard, timeout_s)
        return self.events() | {"found": found}

    def ended(self, timeout_s: float) -> dict[str, object]:
        """Wait until the client has given its socket up for good."""
        thread = self._conversation._ws_client._thread
        thread.join(timeout_s)
        return {"ended": not thread.is_alive()}


def main() -> None:
    """Take orders until there are no more."""
    logging.disable(logging.INFO)
    driver = Driver(*sys.argv[1:])
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(driver, order.pop("do"))(**order)
        except Exception as error:  # noqa: BLE001 - it is told
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
