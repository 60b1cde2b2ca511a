import asyncio
import json

import pytest
from mitmproxy import flow as flows
from mitmproxy.exceptions import AddonHalt
from mitmproxy.proxy import mode_specs
from mitmproxy.test import tflow, tutils

from kimi_core.errors import BadRequest
from kimi_core.exchange import Reply, reply_for
from kimi_core.headers import Headers
from kimi_core.page.state import Outcome
from kimi_core.proxy import addon as module
from kimi_core.proxy import replay
from kimi_core.proxy.addon import KimiMitm
from kimi_core.proxy.status import PageControl
from tests.proxy.conftest import start
from tests.proxy.stand_ins import FakeExchange, FakeProvider


def local(path, *headers, method="GET"):
    """Return a request to the proxy's own port."""
    flow = tflow.tflow(req=tutils.treq(method=method.encode(), path=path.encode(), headers=Headers()))
    flow.request.scheme, flow.request.data.host, flow.request.data.port = "http", "127.0.0.1", 8080
    flow.request.headers.clear()
    for name, value in headers:
        flow.request.headers[name] = value
    flow.client_conn.sockname, flow.client_conn.peername = ("127.0.0.1", 8080), ("127.0.0.1", 50000)
    flow.client_conn.proxy_mode = mode_specs.ProxyMode.parse("regular")
    flow.response = flow.error = None
    return flow


def journal():
    """Return what the page would show of exchanges."""
    return module._shared.recorder.journal()


def provide(addon, opened):
    """Have the addon serve a provider that opens *opened*."""
    addon.reception.providers = (FakeProvider(opened),)


async def test_the_page_is_answered_and_kept_from_all_lists(world):
    """Addons that list, print or save flows come after this one, and see nothing of the page's requests."""
    _, addon = world
    flow = local("/", ("authorization", "Basic fake"))
    with pytest.raises(AddonHalt):
        await addon.requestheaders(flow)
    assert flow.response.status_code == 200
    assert "127.0.0.1:8080" in flow.response.text
    assert flow.request.headers["authorization"] == "[removed]"
    assert isinstance(replay.control_of(flow), PageControl)
    with pytest.raises(AddonHalt):
        await addon.request(flow)
    for hook in (addon.response, addon.error):
        with pytest.raises(AddonHalt):
            hook(flow)
    assert journal().ended == ()


async def test_a_bent_name_does_not_see_the_page(world):
    """The Host is checked before anything is shown."""
    _, addon = world
    flow = local("/")
    flow.request.data.host = "evil.test"
    await addon.requestheaders(flow)
    assert flow.response.status_code == 421


async def test_an_exchange_is_in_the_journal_from_its_beginning(world):
    """It is listed as running under the client's own name, and then with status, attempts and times."""
    _, addon = world
    exchange = FakeExchange()
    provide(addon, exchange)
    flow = local("/kimi/v1/chat/completions", ("user-agent", "opencode/1.18.33 x"), method="POST")
    await addon.requestheaders(flow)
    (row,) = journal().running
    assert (row.client, row.provider, row.operation, row.model) == ("opencode/1.18.33", "fake", "chat", "m")
    exchange.story.facts["in"] = 900
    flow.response = tutils.tresp(status_code=200, headers=Headers())
    flow.response.timestamp_start = flow.request.timestamp_start + 0.5
    addon.response(flow)
    addon.error(flow)
    seen = journal()
    assert seen.running == ()
    (row,) = seen.ended
    assert (row.outcome, row.status, row.tokens_in, row.attempts) == (Outcome.ok, 200, 900, 1)
    assert row.first_byte == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("word", "outcome", "reason"),
    [
        ("Client disconnected.", Outcome.left, "client_left"),
        ("server closed connection", Outcome.failed, "connection_lost"),
    ],
)
async def test_an_exchange_that_breaks_off(world, word, outcome, reason):
    """Without an answer there is no status, but a reason."""
    _, addon = world
    provide(addon, FakeExchange())
    flow = local("/kimi/v1/chat/completions", method="POST")
    await addon.requestheaders(flow)
    flow.error = flows.Error(word)
    addon.error(flow)
    (row,) = journal().ended
    assert (row.outcome, row.status, row.reason, row.client) == (outcome, None, reason, "unknown")


async def test_refusals_are_in_the_journal(world):
    """What the guard or the provider refuses is listed with its code; paths of nobody are not."""
    _, addon = world
    provide(addon, reply_for(BadRequest("No."), "openai"))
    await addon.requestheaders(local("/kimi/v1/chat/completions", method="POST"))
    await addon.requestheaders(local("/kimi/v1/chat/completions", ("origin", "https://example.net"), method="POST"))
    await addon.requestheaders(local("/nowhere"))
    provide(addon, Reply(200, Headers(), b"{}"))
    await addon.requestheaders(local("/kimi/v1/models"))
    assert [(row.status, row.reason) for row in journal().ended] == [
        (200, None),
        (403, "from_browser"),
        (400, "bad_request"),
    ]


async def test_the_journal_survives_a_reload_of_the_script(world):
    """A reload makes a new addon; an exchange of the old one ends in the same journal."""
    tctx, addon = world
    provide(addon, FakeExchange())
    flow = local("/kimi/v1/chat/completions", method="POST")
    await addon.requestheaders(flow)
    tctx.master.addons.remove(addon)
    new = KimiMitm()
    start(tctx, new)
    page = local("/status.json")
    with pytest.raises(AddonHalt):
        await new.requestheaders(page)
    assert json.loads(page.response.content)["journal"]["running_count"] == 1
    flow.response = tutils.tresp(headers=Headers())
    addon.response(flow)
    assert len(journal().ended) == 1
    new.done()
    await asyncio.sleep(0)
