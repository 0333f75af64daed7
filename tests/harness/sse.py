"""A strict client of Server-Sent Events with the face of the WebSocket client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Self

import aiohttp
import orjson

from tests.harness.client import Address, Ended, Frame, Refused
from tests.harness.wire import ServerFault


class SseClient:
    """One event stream; every event's data goes to ``on_frame`` as JSON.

    Attributes:
        ended: Resolves when the stream ends.
        comments: Lines that begin with a colon; heartbeats are such.
        retry_ms: The last ``retry:`` field.
        fault: What the server did wrong, if anything.
    """

    def __init__(self, on_frame: Callable[[Frame], None]) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[Ended] = loop.create_future()
        self.comments: list[str] = []
        self.retry_ms: int | None = None
        self.fault: ServerFault | None = None
        self._on_frame = on_frame
        self._session: aiohttp.ClientSession | None = None
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def connect(
        cls,
        address: Address,
        path: str,
        query: Mapping[str, str | int] | None = None,
        *,
        on_frame: Callable[[Frame], None],
        headers: list[tuple[str, str]] | None = None,
        timeout_s: float = 10.0,
    ) -> Self:
        """Open the stream up to the head of the answer.

        Raises:
            Refused: The status was not 200.
        """
        client = cls(on_frame)
        client._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeout_s)
        )
        try:
            response = await client._session.get(
                f"http://{address[0]}:{address[1]}{path}",
                params=query,
                headers=[("Accept", "text/event-stream"), *(headers or [])],
            )
            await _check_answer(response)
        except BaseException:
            await client._session.close()
            raise
        client._reading = asyncio.create_task(client._read(response))
        return client

    async def close(self) -> Ended:
        """Leave; a server sees the connection go."""
        assert self._session is not None
        assert self._reading is not None
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self._session.close()
        if not self.ended.done():
            self.ended.set_result(Ended(None, ""))
        return self.ended.result()

    def cut(self) -> None:
        """Stop reading; :meth:`close` frees the rest."""
        if self._reading is not None:
            self._reading.cancel()

    async def wait_ended(self, timeout_s: float = 10.0) -> Ended:
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(self.ended)

    async def _read(self, response: aiohttp.ClientResponse) -> None:
        fields: dict[str, str] = {}
        pending = b""
        try:
            async for part in response.content.iter_any():
                *lines, pending = (pending + part).split(b"\n")
                for line in lines:
                    self._line(line.decode().removesuffix("\r"), fields)
        except aiohttp.ClientError:
            pass
        except ServerFault as fault:
            self.fault = fault
        finally:
            response.close()
            if not self.ended.done():
                self.ended.set_result(Ended(None, ""))

    def _line(self, line: str, fields: dict[str, str]) -> None:
        """One line as the HTML standard reads it; an empty one ends an event."""
        if line.startswith(":"):
            self.comments.append(line[1:].strip())
        elif line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "retry":
                self.retry_ms = int(value)
            elif name == "data" and "data" in fields:
                fields["data"] += "\n" + value
            else:
                fields[name] = value
        elif fields:
            self._event(fields)
            fields.clear()

    def _event(self, fields: dict[str, str]) -> None:
        if "event" in fields:
            raise ServerFault("a named event, which onmessage does not see")
        if "data" not in fields:
            return
        frame = orjson.loads(fields["data"])
        if fields.get("id") != frame.get("id"):
            raise ServerFault(f"id {fields.get('id')} of {fields['data'][:100]}")
        self._on_frame(frame)


async def _check_answer(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        names = {name.lower(): value for name, value in response.headers.items()}
        raise Refused(response.status, names, await response.read())
    if response.content_type != "text/event-stream":
        raise ServerFault(f"content type {response.content_type}")
