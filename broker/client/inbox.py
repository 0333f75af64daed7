"""What a connection has brought and the loop has not taken yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable

from broker.client.wire import Frame, is_reset
from broker.model import FIRST_ID, parse_position

FRAMES_MAX = 1000
BYTES_MAX = 1024 * 1024


class Inbox:
    """Frames in order, each entry once, in bounds.

    Above the bounds nothing should be read from the socket until half is taken; a frame
    that is larger than all of them is taken alone.

    A gap waits for the frame that moves the position past it: if the connection ends
    before, the next one begins in front of the gap and tells of it again.
    """

    def __init__(self) -> None:
        self._frames: deque[tuple[Frame, int]] = deque()
        self._bytes = 0
        self._aside: list[tuple[Frame, int]] = []
        self._last = FIRST_ID
        self._ended = False
        self._closed = False
        self._some = asyncio.Event()
        self._room = asyncio.Event()

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: Frame, size: int) -> Awaitable[object] | None:
        """Add a frame whose text has *size* characters.

        Returns:
            What to wait for before anything more is read; None if there is room.
        """
        if self._closed or not self._settles(frame, size):
            return None
        self._frames.append((frame, size))
        self._bytes += size
        self._some.set()
        if len(self._frames) < FRAMES_MAX and self._bytes < BYTES_MAX:
            return None
        self._room.clear()
        return self._room.wait()

    def take(self) -> Frame:
        """The next frame; there must be one."""
        frame, size = self._frames.popleft()
        self._bytes -= size
        if len(self._frames) <= FRAMES_MAX // 2 and self._bytes <= BYTES_MAX // 2:
            self._room.set()
        if not (self._frames or self._ended):
            self._some.clear()
        return frame

    async def wait(self) -> None:
        """Wait until there is a frame, or none will come any more."""
        await self._some.wait()

    def cut(self) -> None:
        """A connection has ended: the next one repeats what was not settled."""
        self._aside.clear()

    def end(self) -> None:
        """No more frames will come."""
        self._ended = True
        self._some.set()

    def close(self) -> None:
        """No more frames are wanted, nor those that are here."""
        self._closed = True
        self._frames.clear()
        self._room.set()
        self.end()

    def _settles(self, frame: Frame, size: int) -> bool:
        """Whether *frame* is to be added now; gaps in front of it are."""
        if frame.id is not None:
            entry_id = parse_position(frame.id).id
            if entry_id <= self._last:
                return False
            self._last = entry_id
        elif frame.event == "gap":
            self._aside.append((frame, size))
            return False
        elif is_reset(frame):
            self._last = FIRST_ID
        elif frame.event != "caught_up":
            return True
        for gap, gap_size in self._aside:
            self._frames.append((gap, gap_size))
            self._bytes += gap_size
        self._aside.clear()
        return True
