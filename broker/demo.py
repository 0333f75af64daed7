"""The demo feed of ``broker dev``: simulated runs of an agent, on session ``demo``.

`agent_run` invents what one run publishes; `run_demo` publishes run after run, as any
service would: one plain ``XADD`` per event.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator, Mapping

import msgspec
import orjson
import structlog

from broker.errors import StoreError
from broker.store.client import connect, publish
from broker.store.keys import event_key_pattern

SESSION = "demo"
PAUSE_BETWEEN_RUNS_S = 3.0
RETRY_S = 1.0

_log = structlog.get_logger(__name__)

_TASKS = (
    ("Which warehouse is short of paper?", "stock_level", {"item": "paper"}),
    ("Is the 14:05 train on time?", "departures", {"station": "Central"}),
    ("Will it rain on Saturday?", "forecast", {"day": "Saturday"}),
)
_THOUGHTS = (
    "I need a current figure before I can answer, so I will look it up first.",
    "The question names one thing only; a single lookup should be enough.",
)
_ANSWERS = (
    "I looked it up: the answer is yes, with a small margin. Ask again tomorrow.",
    "According to the lookup there is nothing to worry about today.",
    "The figures disagree a little; the newer one says no.",
)


class Step(msgspec.Struct, frozen=True):
    """One event of a simulated run.

    Attributes:
        pause_s: How long the agent takes before it publishes the event.
        event: Name of the event.
        data: Its data, ready for JSON.
    """

    pause_s: float
    event: str
    data: Mapping[str, object]


def agent_run(run: int, rng: random.Random) -> Iterator[Step]:
    """Invent one run: state changes, thinking, a tool call, an answer in tokens."""
    question, tool, arguments = rng.choice(_TASKS)
    yield Step(0, "run_started", {"run": run, "question": question})
    yield _state("planner", "running")
    thought = rng.choice(_THOUGHTS)
    yield from _tokens(thought, "planner", rng)
    call: dict[str, object] = {"node_id": "planner", "tool": tool}
    yield Step(0.3, "tool_call", call | {"arguments": arguments})
    result: dict[str, object] = {"ok": True, "value": rng.randrange(100)}
    yield Step(rng.uniform(0.3, 1.2), "tool_result", call | result)
    yield _state("planner", "completed")
    yield _state("writer", "running")
    answer = rng.choice(_ANSWERS)
    yield from _tokens(answer, "writer", rng)
    yield _state("writer", "completed")
    used = {"input_tokens": len(question.split()), "output_tokens": len(answer.split())}
    yield Step(0.1, "token_usage", used)
    yield Step(0.1, "run_finished", {"run": run, "status": "completed"})


def _state(node_id: str, status: str) -> Step:
    return Step(0.2, "node_state_change", {"node_id": node_id, "status": status})


def _tokens(text: str, node_id: str, rng: random.Random) -> Iterator[Step]:
    """Words as a model emits them: a burst at a time."""
    words = text.split(" ")
    for place, word in enumerate(words):
        pause_s = rng.choice((0.0, 0.02, 0.05, 0.15))
        chunk = word if place == len(words) - 1 else f"{word} "
        yield Step(pause_s, "token_stream", {"node_id": node_id, "chunk": chunk})


async def run_demo(url: str, event_stream: str, *, pace: float = 1.0) -> None:
    """Publish simulated runs until cancelled; a lost Redis only interrupts them.

    Args:
        url: The Redis to publish to.
        event_stream: The setting of that name.
        pace: Factor on every pause; below 1 is faster.
    """
    rng = random.Random()  # noqa: S311  no secret
    key = event_key_pattern(event_stream).key(SESSION)
    async with connect(url, client_name="broker-demo") as client:
        for run in itertools.count(1):
            try:
                for step in agent_run(run, rng):
                    await asyncio.sleep(step.pause_s * pace)
                    data = orjson.dumps(step.data).decode()
                    await publish(client, key, step.event, data)
            except StoreError as error:
                _log.warning("demo_interrupted", run=run, error=str(error))
                await asyncio.sleep(RETRY_S)
            await asyncio.sleep(PAUSE_BETWEEN_RUNS_S * pace)
