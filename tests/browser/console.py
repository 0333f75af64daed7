"""The console in a browser, in the words of the tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Self

from playwright.async_api import BrowserContext, Page

from tests.harness.client import Address

OpenConsole = Callable[..., Awaitable["ConsolePage"]]

NETWORK = ("WebSocket", "Failed to load resource", "net::ERR_")
"""What a browser itself writes on its console where a test cuts the network."""

WATCH = """
async ([session, options]) => {
  const { Client } = await import("./client.js");
  const url = new URL("..", location.href).href;
  const backoff = { minMs: 100, maxMs: 500 };
  const seen = { numbers: [], states: [], lost: 0, resets: 0, replays: [] };
  const { ofProvider, ...rest } = options;
  if (ofProvider) rest.tokenProvider = () => (window.asked += 1) && window.newToken();
  const client = new Client({ url, session, lastEventId: "0", backoff, ...rest });
  client.on("event", (event) => seen.numbers.push(event.data.i));
  client.on("state", ({ state }) => seen.states.push(state));
  client.on("gap", ({ lost }) => (seen.lost += lost));
  client.on("reset", () => (seen.resets += 1));
  client.on("caught_up", ({ replayed }) => seen.replays.push(replayed));
  client.connect();
  window.watched = { client, seen };
}
"""
FRAMES = """
() => {
  const frames = { count: 0, longestMs: 0, since: performance.now() };
  let before = performance.now();
  const next = (now) => {
    frames.count += 1;
    frames.longestMs = Math.max(frames.longestMs, now - before);
    before = now;
    requestAnimationFrame(next);
  };
  requestAnimationFrame((now) => {
    before = now;
    requestAnimationFrame(next);
  });
  window.frames_ = frames;
}
"""
IS_TEXT = "([id, text]) => document.getElementById(id).textContent === text"
HAS_ROW = """
(text) => [...document.querySelectorAll("#rows [role=option]:not([hidden])")]
  .some((row) => row.textContent.includes(text))
"""


TWO_FRAMES = """
() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))
"""


class ConsolePage:
    """One page with the console.

    Attributes:
        page: Playwright's.
        errors: What its scripts did wrong so far.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self._heard(message.type, message.text))

    @classmethod
    async def new(cls, context: BrowserContext) -> Self:
        return cls(await context.new_page())

    def _heard(self, kind: str, text: str) -> None:
        if kind == "error" and not any(word in text for word in NETWORK):
            self.errors.append(text)

    def check_errors(self) -> None:
        assert not self.errors, self.errors

    async def choose_user(self, user: str) -> None:
        """Be this user when the page is opened."""
        script = f"localStorage.setItem('broker.console.user', {user!r})"
        # Not every page has a storage: about:blank has none.
        await self.page.add_init_script(f"try {{ {script} }} catch {{}}")

    async def open(self, at: Address, session: str, path: str) -> None:
        await self.page.goto(f"http://{at[0]}:{at[1]}{path}#{session}")

    # What it shows.

    async def until(self, id_: str, text: str) -> None:
        await self.page.wait_for_function(IS_TEXT, arg=[id_, text])

    async def until_state(self, name: str) -> None:
        await self.page.wait_for_function(
            "(text) => document.querySelector('#state b').textContent === text",
            arg=name,
        )

    async def until_received(self, count: int) -> None:
        """Wait until it has received so many; more are too many."""
        await self.until("f-received", f"{count:,}")

    async def until_row(self, text: str) -> None:
        """Wait until a line in view has this text."""
        await self.page.wait_for_function(HAS_ROW, arg=text)

    async def until_no_row(self, text: str) -> None:
        """Wait until no line in view has this text."""
        await self.page.wait_for_function(f"(text) => !({HAS_ROW})(text)", arg=text)

    async def painted(self) -> None:
        """Wait until what was done so far can be seen."""
        await self.page.evaluate(TWO_FRAMES)

    async def text(self, id_: str) -> str:
        text: str = await self.page.inner_text(f"#{id_}")
        return text

    async def rows(self) -> list[str]:
        """The texts of the lines in view, in order."""
        found: list[str] = await self.page.evaluate(
            """() => [...document.querySelectorAll("#rows [role=option]:not([hidden])")]
              .map((element) => [element.getBoundingClientRect().top, element.row])
              .sort(([top], [other]) => top - other)
              .map(([, row]) => row.name ?? row.what)"""
        )
        return found

    # What is done with it.

    async def click(self, id_: str) -> None:
        await self.page.click(f"#{id_}")

    async def show(self, view: str) -> None:
        """Go to another view, on a narrow page."""
        await self.page.click(f"[data-goto={view}]")

    # A client of the test's own in the same page.

    async def watch(self, session: str, **options: object) -> None:
        """Read a session from its beginning, and keep what comes."""
        await self.page.evaluate(WATCH, [session, options])

    async def watch_with_provider(self, session: str) -> None:
        """The same with tokens of `newToken`, and ``asked`` counts how many."""
        await self.page.evaluate("window.asked = 0")
        await self.page.evaluate(WATCH, [session, {"ofProvider": True}])

    async def until_watched(self, count: int) -> None:
        """Wait until the client was given so many events, or more."""
        await self.page.wait_for_function(
            "(count) => window.watched.seen.numbers.length >= count", arg=count
        )

    async def until_watching(self, state: str) -> None:
        await self.page.wait_for_function(
            "(state) => window.watched.client.state === state", arg=state
        )

    async def watched(self, name: str) -> Any:
        return await self.page.evaluate(
            "(name) => window.watched.seen[name] ?? window.watched.client[name]", name
        )

    async def count_frames(self) -> None:
        """Begin to measure how smoothly the page is drawn."""
        await self.page.evaluate(FRAMES)

    async def frames(self) -> dict[str, float]:
        measured: dict[str, float] = await self.page.evaluate("window.frames_")
        return measured
