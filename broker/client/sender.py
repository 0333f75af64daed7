"""Says commands on a connection of its own, until each is answered.

On the connection of a session the answer would come behind its events: a loop that
sends a command and waits for the answer would wait for itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

import aiohttp
from yarl import URL

from broker.client.errors import ClosedByServer, CommandRefused, CommandUnanswered
from broker.client.follow import Follower
from broker.client.link import Ending, Link
from broker.client.tokens import Tokens
from broker.client.wire import Details, Frame, read_details

# This runs in other programs, whose own logging decides what becomes of it.
log = logging.getLogger(__name__)

UNANSWERED_MAX = 100
UNANSWERED_BYTES_MAX = 128 * 1024
"""So much may be under way. The broker refuses more than it can put aside, and cannot
say which."""


class _Command:
    """A command under way.

    Attributes:
        id: Its id.
        text: What is said.
        size: In bytes.
        said: It was, on the connection of the moment.
        answered: There is an outcome.
        outcome: The stream id, or why there is none.
    """

    __slots__ = ("answered", "id", "outcome", "said", "size", "text")

    def __init__(self, name: str, text: str) -> None:
        self.id = name
        self.text = text
        self.size = len(text.encode())
        self.said = False
        self.answered = asyncio.Event()
        self.outcome: str | BaseException = ""

    def answer(self, outcome: str | BaseException) -> None:
        """The first outcome counts."""
        if not self.answered.is_set():
            self.outcome = outcome
            self.answered.set()


class Sender:
    """Commands to services; connects with the first one.

    After a cut all that was not answered is said again, in its order and before
    anything new. That is only done for a user: of a client without one the broker
    does not recognise a command on another connection, and would store it twice.
    """

    def __init__(self, url: URL, tokens: Tokens, user: str) -> None:
        self._follower = Follower(url, tokens, self)
        self._user = user
        self._commands: dict[str, _Command] = {}
        self._unsaid: deque[_Command] = deque()
        self._under_way = 0
        self._bytes_under_way = 0
        self._news = asyncio.Event()
        self._is_somebody = True
        self._task: asyncio.Task[Ending] | None = None

    async def send(
        self, http: aiohttp.ClientSession, name: str, text: str, timeout_s: float
    ) -> str:
        """Say *text*, a command whose id is *name*, until it is answered.

        Returns:
            The stream id of the stored command.

        Raises:
            CommandRefused: It was not stored.
            CommandUnanswered: Nobody knows.
            ClosedByServer: Coming back is of no use.
            ValueError: The same id is under way.
        """
        if name in self._commands:
            raise ValueError("a command with this id is under way")
        command = self._commands[name] = _Command(name, text)
        self._unsaid.append(command)
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follower.run(http))
            self._task.add_done_callback(self._end)
        try:
            async with asyncio.timeout(timeout_s):
                await command.answered.wait()
        except TimeoutError:
            why = f"no answer within {timeout_s} s"
            raise CommandUnanswered(why, id=name) from None
        finally:
            self._forget(command)
        if isinstance(command.outcome, BaseException):
            raise command.outcome
        return command.outcome

    async def close(self) -> None:
        """Close the connection; what is under way ends without an answer."""
        for command in self._commands.values():
            command.answer(CommandUnanswered("the client was closed", id=command.id))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def _forget(self, command: _Command) -> None:
        del self._commands[command.id]
        if command.said:
            self._take_back(command)
        else:
            self._unsaid.remove(command)

    def _take_back(self, command: _Command) -> None:
        command.said = False
        self._under_way -= 1
        self._bytes_under_way -= command.size
        self._news.set()

    def _end(self, task: asyncio.Task[Ending]) -> None:
        """Nothing more is said: the server, or the provider of tokens, ended it."""
        error = None if task.cancelled() else task.exception()
        for command in self._commands.values():
            if error is not None:
                command.answer(error)

    # What the follower asks.

    def query(self) -> dict[str, str]:
        """Who we are, where no token is asked for."""
        return {"user": self._user} if self._user else {}

    def handle_frame(self, link: Link, frame: Frame, text: str) -> None:
        """Begin to say commands, and take the answers."""
        if frame.event == "welcome":
            details = read_details(frame.data)
            self._is_somebody = details.user is not None
            link.start(self._keep_saying(link, details.max_frame_bytes))
        elif frame.event in {"ack", "error"}:
            self._handle_answer(frame.event, read_details(frame.data))

    def _handle_answer(self, event: str, answer: Details) -> None:
        command = self._commands.get(answer.ref or "")
        if command is None:
            return
        if event == "ack":
            command.answer(answer.id)
            return
        code, message = str(answer.code), answer.message
        refused = CommandRefused(code, message, retry=answer.retry, id=command.id)
        command.answer(refused)

    async def _keep_saying(self, link: Link, max_frame_bytes: int) -> None:
        """Say what is to be said, the oldest first; never returns."""
        while True:
            while self._unsaid and self._has_room():
                command = self._unsaid.popleft()
                command.said = True
                self._under_way += 1
                self._bytes_under_way += command.size
                if command.size <= max_frame_bytes:
                    await link.send(command.text)
                else:
                    why = f"a frame has at most {max_frame_bytes} bytes"
                    name = command.id
                    command.answer(
                        CommandRefused("too_large", why, retry=False, id=name)
                    )
            self._news.clear()
            await self._news.wait()

    def _has_room(self) -> bool:
        return (
            self._under_way < UNANSWERED_MAX
            and self._bytes_under_way < UNANSWERED_BYTES_MAX
        )

    def handle_end(self, ending: Ending) -> bool:
        """What was said and not answered is to be said again, or given up."""
        said = [command for command in self._commands.values() if command.said]
        for command in said:
            if not self._is_somebody:
                why = f"{ending.reason}; without a user it is not said twice"
                command.answer(CommandUnanswered(why, id=command.id))
        if not ending.retry:
            for command in self._commands.values():
                command.answer(ClosedByServer(ending.code, ending.reason))
        for command in reversed(said):
            self._take_back(command)
            self._unsaid.appendleft(command)
        return any(not c.answered.is_set() for c in self._commands.values())

    def handle_pause(self, ending: Ending, delay_s: float) -> None:
        """Tell whoever looks after the program."""
        log.warning("commands: %s; again in %.1f s", ending.reason, delay_s)
