"""The console of a broker that asks for tokens."""

from __future__ import annotations

import pytest

from broker.store.embedded import EmbeddedServer
from tests.browser.console import ConsolePage, OpenConsole
from tests.conftest import StartBroker
from tests.harness.publisher import Author
from tests.harness.servers import BrokerServer
from tests.harness.tokens import SECRET, now_s, token


def pass_for(user: str, lives_s: float = 300, key: str = SECRET) -> str:
    """A token that allows everything but the server API."""
    rights = ["subscribe", "command", "publish"]
    return token(user, key=key, lives_s=lives_s, rights=rights)


@pytest.fixture
def guarded(start_broker: StartBroker, shared_redis: EmbeddedServer) -> BrokerServer:
    """A broker that asks for tokens, and warns three seconds before their end."""
    return start_broker(
        shared_redis.url,
        console="true",
        auth="jwt",
        jwt_secret=SECRET,
        token_warn_s=3,
        jwt_leeway_s=0,
    )


async def give(page: ConsolePage, text: str) -> None:
    """Put a token into the field that asks for one."""
    await page.page.fill("#banner input", text)
    await page.page.click("#banner button")


async def test_a_token_lets_in_and_stays_in_the_page(
    open_console: OpenConsole, guarded: BrokerServer, session: str, author: Author
) -> None:
    """It is in no URL and no storage, and is asked for again after a reload."""
    await author.publish(session, 3)
    page = await open_console(guarded.public, session)
    urls: list[str] = []
    page.page.on("request", lambda request: urls.append(request.url))
    page.page.on("websocket", lambda socket: urls.append(socket.url))
    await page.until_state("Token needed")
    secret = pass_for("ada")
    await give(page, secret)
    await page.until_state("Live")
    await page.until_received(3)
    await page.until("s-user", "ada")
    kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, location.href])"
    assert secret not in await page.page.evaluate(kept)
    assert [url for url in urls if secret in url] == []
    assert secret not in await page.page.content()
    await page.page.reload()
    await page.until_state("Token needed")


async def test_a_token_that_is_refused_can_be_tried_again(
    open_console: OpenConsole, guarded: BrokerServer, session: str
) -> None:
    """The page says why, and asks for another one."""
    page = await open_console(guarded.public, session)
    await give(page, pass_for("ada", key="another secret of 32 bytes or more"))
    await page.page.wait_for_selector("#banner :text('a valid token is needed')")
    await give(page, pass_for("ada"))
    await page.until_state("Live")


async def test_publishing_uses_the_token(
    open_console: OpenConsole, guarded: BrokerServer, session: str
) -> None:
    """Who may read only is told so, in the words of the broker."""
    page = await open_console(guarded.public, session)
    await give(page, token("ada", rights=["subscribe"]))
    await page.until_state("Live")
    await page.page.click("#publish [type=submit]")
    await page.page.wait_for_selector("#p-result:has-text('does not allow')")
    await page.page.reload()
    await give(page, pass_for("ada"))
    await page.until_state("Live")
    await page.page.click("#publish [type=submit]")
    await page.until_row("note")


async def test_a_token_that_ends_is_renewed_on_the_open_connection(
    open_console: OpenConsole, guarded: BrokerServer, session: str, author: Author
) -> None:
    """The page asks in time; nothing is interrupted."""
    page = await open_console(guarded.public, session)
    await give(page, pass_for("ada", 4))
    ends_ms = (now_s() + 4) * 1000
    await page.until_state("Live")
    await page.page.wait_for_selector("#banner :text('The token ends')")
    await give(page, pass_for("ada"))
    await page.page.wait_for_selector("#banner", state="hidden")
    await page.page.wait_for_function("(ms) => Date.now() > ms + 1000", arg=ends_ms)
    await author.publish(session, 3)
    await page.until_received(3)
    await page.until("f-reconnects", "0")


async def test_a_token_that_has_ended_is_replaced_without_a_loss(
    open_console: OpenConsole, guarded: BrokerServer, session: str, author: Author
) -> None:
    """The page goes on from its position with the next one."""
    page = await open_console(guarded.public, session)
    await give(page, pass_for("ada", 2))
    await page.until_state("Live")
    await author.publish(session, 5)
    await page.until_received(5)
    await page.until_state("Token expired")
    await author.publish(session, 5)
    await give(page, pass_for("ada"))
    await page.until_state("Live")
    await page.until_received(10)
    await page.until("f-missing", "0")


async def test_a_client_with_a_provider_outlives_its_tokens(
    open_console: OpenConsole, guarded: BrokerServer, session: str, author: Author
) -> None:
    """It is asked for the next one before the end, and no event is lost or doubled."""
    page = await open_console(guarded.public, session)
    await page.page.expose_function("newToken", lambda: pass_for("ada", 4))
    await page.watch_with_provider(session)
    await author.publish(session, 5)
    await page.until_watched(5)
    await page.page.wait_for_function("() => window.asked >= 3")
    await author.publish(session, 5)
    await page.until_watched(10)
    assert await page.watched("numbers") == list(range(1, 11))
    assert await page.watched("states") == ["connecting", "open"]
