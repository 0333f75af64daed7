"""The worker's requests to the reader, over a Unix socket that may break."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable

import structlog

from broker.ring import requests
from broker.ring.records import seq_word
from broker.worker.channels import Channel, Channels

log = structlog.get_logger(__name__)

REJOINS_AT_ONCE = 64
"""Channels that are joined again at a time: after a cut all of them want to be."""
RETRY_S = 0.05


class Link:
    """Asks for channels; the answers come through the ring.

    When the connection ends the reader has forgotten this worker. Then every channel
    is asked for again, with the position that the worker has, some at a time. New
    channels do not queue behind them.

    Args:
        address: Abstract address of the reader's socket.
        row: This worker's row on the board.
        channels: What is asked for.
        cut_off: Called when the reader is lost, before anything is asked for again.
    """

    def __init__(
        self, address: str, row: int, channels: Channels, cut_off: Callable[[], None]
    ) -> None:
        self._address = "\0" + address.lstrip("\0")
        self._row = row
        self._channels = channels
        self._cut_off = cut_off
        self._writer: asyncio.StreamWriter | None = None
        self._unsent: list[bytes] = []
        self._rejoins: deque[Channel] = deque()
        self._rejoining: set[int] = set()

    async def run(self) -> None:
        """Keep the connection; never returns."""
        while True:
            try:
                reader, writer = await self._connect()
            except OSError:
                await asyncio.sleep(RETRY_S)
                continue
            self._writer = writer
            self._write(requests.Hello(self._row))
            self.rejoin_all()
            try:
                await reader.read()  # The reader never writes: this waits for its end.
            except OSError:
                pass
            finally:
                self._writer = None
                self._unsent.clear()
                writer.transport.abort()
            log.warning("reader_lost")
            self._cut_off()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(self._address)  # Local: it is taken or refused at once.
            return await asyncio.open_unix_connection(sock=sock)
        except OSError:
            sock.close()
            raise

    def watch(self, channel: Channel) -> None:
        """Ask for *channel*; without a connection it is asked for with the next one."""
        if self._writer is not None:
            self._ask(channel)

    def unwatch(self, channel: Channel) -> None:
        """Say that nobody needs *channel* here."""
        self._write(requests.Unwatch(channel.session))
        # The reader does not answer who has left: the next in the queue has its turn.
        self.answered(channel.token)

    def rejoin_all(self) -> None:
        """Ask for every channel again that is not joined."""
        every = self._channels.by_session.values()
        self._rejoins = deque(channel for channel in every if not channel.joined)
        self._rejoining.clear()
        self._ask_more()

    def answered(self, token: int) -> None:
        """Note an answer, so that the next channel in the queue has its turn."""
        self._rejoining.discard(token)
        self._ask_more()

    def _ask_more(self) -> None:
        while self._rejoins and len(self._rejoining) < REJOINS_AT_ONCE:
            channel = self._rejoins.popleft()
            if channel.needed and not channel.joined:
                self._rejoining.add(self._ask(channel))

    def _ask(self, channel: Channel) -> int:
        token = self._channels.new_token(channel)
        have = None
        if channel.known:
            tip = channel.tip
            have = (*tip.id, seq_word(tip.seq))
        self._write(requests.Watch(token, channel.session, have, channel.former))
        return token

    def _write(self, request: requests.Request) -> None:
        if self._writer is not None:
            if not self._unsent:
                asyncio.get_running_loop().call_soon(self._flush)
            self._unsent.append(requests.encode(request))

    def _flush(self) -> None:
        # Hundreds of clients may come in one turn of the loop: one write for all.
        unsent, self._unsent = self._unsent, []
        if self._writer is not None:
            self._writer.write(b"".join(unsent))
