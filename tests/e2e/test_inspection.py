"""Looking at traffic in a real mitmweb, and sending saved flows again in a real mitmdump."""

import contextlib
import io

import pytest
from mitmproxy import flowfilter
from mitmproxy.io import FlowReader

from kimi_core.proxy import record, sides
from kimi_core.view import answer
from tests.e2e.harness import ADDON, wait_until
from tests.e2e.kiro_harness import KiroProxy, said
from tests.e2e.test_secrets import clear, everything, flow_ids
from tests.servers.kiro_answers import REFUSALS

KIMI = {
    "model": "kimi-for-coding",
    "stream": True,
    "reasoning_effort": "high",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "[[say hello kimi]]"}],
}
KIRO = {"model": "claude-sonnet-4.5", "messages": [{"role": "user", "content": "[[say hello kiro]]"}]}
CLIENT = {
    "Authorization": "Bearer client-own-secret",
    "X-Custom-Token": "another-client-secret",
    "Cookie": "id=client-cookie-secret",
    "User-Agent": "test-client/1.0",
}
CLIENTS_OWN = ("client-own-secret", "another-client-secret", "client-cookie-secret")
REPLAY_SECONDS = 60


class Detailed(KiroProxy):
    """A mitmdump that prints bodies."""

    def command(self):
        return [word.replace("flow_detail=2", "flow_detail=3") for word in super().command()]


@pytest.fixture(scope="module")
def web(start_kiro):
    """Return a mitmweb with a login of each service."""
    made = start_kiro(tool="mitmweb")
    made.login()
    made.more_secrets |= set(CLIENTS_OWN)
    return made


@pytest.fixture(autouse=True)
def _accounts(web):
    """Begin with an account to which nothing has happened, and with no flows."""
    web.accounts(1)
    clear(web)


def ask(web, name, body, **headers):
    """Ask at the local endpoint of a provider, with credentials of the client's own."""
    with web.local_client(headers=CLIENT | headers) as client:
        return client.post(f"{web.url}/{name}/v1/chat/completions", json=body)


def flows(web):
    """Return the flows on the page, each as its JSON."""
    with web.web() as page:
        return page.get("/flows").json()


def looked_at(web, flow_id, message, view="auto"):
    """Return the name of the view that mitmweb shows, and its text."""
    with web.web() as page:
        shown = page.get(f"/flows/{flow_id}/{message}/content/{view}.json")
        assert shown.status_code == 200, shown.text
    return shown.json()["view_name"], shown.json()["text"]


def saved(web):
    """Return the flows as mitmweb saves them."""
    with web.web() as page:
        return list(FlowReader(io.BytesIO(page.get("/flows/dump").content)).stream())


def wait_for_answer(web, flow_id, words):
    """Wait until the answer of a flow says something; the page cannot show one that is not there."""

    def said_so():
        (flow,) = (flow for flow in flows(web) if flow["id"] == flow_id)
        there = (flow.get("response") or {}).get("contentLength")
        return there and words in looked_at(web, flow_id, "response")[1]

    wait_until(said_so, f"{words!r} in the answer")


def finished(web, number=1):
    """Wait until so many flows have a comment, and return them."""
    return wait_until(
        lambda: found if len(found := [flow for flow in flows(web) if flow["comment"]]) >= number else None, "the flows"
    )


def test_each_message_of_a_chat_has_a_view_of_its_own(web):
    """The page shows requests as transcripts and answers as what they say, with both sides of a Kiro flow."""
    assert said(ask(web, "kimi", KIMI)) == "hello kimi"
    assert said(ask(web, "kiro", KIRO | {"stream": True})) == "hello kiro"
    kimi, kiro = finished(web, 2)
    name, text = looked_at(web, kimi["id"], "request")
    assert name == "Chat request"
    assert "cache key" in text
    assert "2 user" in text
    name, text = looked_at(web, kimi["id"], "response")
    assert name == "Chat answer"
    assert "hello kimi" in text
    assert "cached" in text
    name, text = looked_at(web, kiro["id"], "request")
    assert name == "Chat request"
    assert text.startswith("Kiro request")
    name, text = looked_at(web, kiro["id"], "response")
    assert name == "Chat answer"
    assert "hello kiro" in text
    _, wire = looked_at(web, kiro["id"], "response", "kiro%20wire")
    assert "all checksums good" in wire
    assert "assistantResponseEvent" in wire
    _, sent = looked_at(web, kiro["id"], "request", "as%20the%20client%20sent%20it")
    assert "/kiro/v1/chat/completions" in sent
    assert "user-agent: test-client/1.0" in sent.lower()
    assert "claude-sonnet-4.5" in sent
    assert not any(secret in sent for secret in CLIENTS_OWN)


def test_other_traffic_keeps_its_views(web):
    """JSON that is no chat is shown as mitmproxy shows it."""
    with web.local_client() as client:
        client.get(f"{web.url}/kimi/v1/models")
    (flow,) = finished(web)
    assert looked_at(web, flow["id"], "response")[0] == "JSON"


def test_an_answer_that_is_not_streamed_has_both_sides(web):
    """For a client that takes its answer whole the service's frames are kept as well."""
    assert said(ask(web, "kiro", KIRO)) == "hello kiro"
    (flow,) = finished(web)
    assert looked_at(web, flow["id"], "response")[0] == "Chat answer"
    assert "frames" in looked_at(web, flow["id"], "response", "kiro%20wire")[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mitmproxy's way to call pyparsing
def test_the_flows_of_one_exchange_are_found_together(web):
    """A failed attempt and what came of it share an id, which filters on comments and metadata find."""
    web.accounts(2)
    web.world.kiro.queue(REFUSALS["rate"].script())
    assert said(ask(web, "kiro", KIRO | {"stream": True})) == "hello kiro"
    attempt, final = sorted(finished(web, 2), key=lambda flow: "attempts" in flow["comment"])
    tag = final["comment"].rpartition("#")[2]
    assert len(tag) == record.ID_LENGTH
    assert attempt["comment"].endswith(f"#{tag}")
    assert "attempt 1" in attempt["comment"]
    assert {flow.metadata[record.METADATA]["exchange"] for flow in saved(web)} == {tag}
    for wanted in (f"~comment #{tag}", f"~meta {tag}", "~marker :recycle:"):
        assert sum(bool(flowfilter.match(wanted, flow)) for flow in saved(web)) == 2, wanted
    assert sum(bool(flowfilter.match("~meta attempt_of", flow)) for flow in saved(web)) == 1


def test_a_body_that_is_cut_says_so(web):
    """Beyond the limit only the beginning of an answer is kept, of both sides, and comment and view say it."""
    with web.web() as page:
        page.put("/options", json={"kimi_record_limit": 1})
    try:
        words = "word " * 600
        assert said(ask(web, "kimi", KIMI | {"messages": [{"role": "user", "content": f"[[say {words}]]"}]}))
        assert said(ask(web, "kiro", KIRO | {"messages": [{"role": "user", "content": f"[[say {words}]]"}]}))
        kimi, kiro = finished(web, 2)
        assert "1.0 KiB of" in kimi["comment"]
        text = looked_at(web, kimi["id"], "response", "chat%20answer")[1]
        assert "kept (kimi_record_limit)" in text
        assert kimi["response"]["contentLength"] == 1024
        assert "kept (kimi_record_limit)" in looked_at(web, kiro["id"], "response", "kiro%20wire")[1]
        sent = looked_at(web, kiro["id"], "request", "as%20the%20client%20sent%20it")[1]
        assert "kept (kimi_record_limit)" in sent
        for flow in saved(web):
            kept = flow.metadata[sides.SIDES]
            assert all(len(kept[side]["body"] or b"") <= 1024 for side in ("request", "answer") if side in kept)
    finally:
        with web.web() as page:
            page.put("/options", json={"kimi_record_limit": 8192})


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ["kimi", "kiro"])
def test_a_flow_is_sent_again_from_the_page(web, name, stream):
    """Replay in mitmweb asks again with the token of now, as the client asked, and the answer is good."""
    fake = web.world.kimi if name == "kimi" else web.world.kiro
    operation = "chat" if name == "kimi" else "generate"
    assert ask(web, name, {"kimi": KIMI, "kiro": KIRO}[name] | {"stream": stream}).status_code == 200
    (flow,) = finished(web)
    (first,) = fake.of(operation)
    with web.web() as page:
        page.post(f"/flows/{flow['id']}/replay")
    again = fake.wait_for_request(operation, 2)
    assert again.bearer == first.bearer
    assert again.json == first.json
    wait_for_answer(web, flow["id"], f"hello {name}")
    view, text = looked_at(web, flow["id"], "response")
    assert view == "Chat answer"
    assert ("streamed" in text) is stream


def test_an_edited_flow_is_sent_as_it_was_edited(web):
    """What a user changes in a flow is what is sent: to Kimi through the same repairs, to Kiro in Kiro's own form."""
    for name, body, fake, operation in (
        ("kimi", KIMI, web.world.kimi, "chat"),
        ("kiro", KIRO, web.world.kiro, "generate"),
    ):
        assert said(ask(web, name, body)) == f"hello {name}"
        flow = finished(web)[-1]
        with web.web() as page:
            content = page.get(f"/flows/{flow['id']}/request/content.data").content
            edited = content.replace(f"hello {name}".encode(), b"something else")
            page.put(f"/flows/{flow['id']}", json={"request": {"content": edited.decode()}})
            page.post(f"/flows/{flow['id']}/replay")
        again = fake.wait_for_request(operation, 2)
        assert again.bearer.startswith("fake-access-")
        assert b"something else" in again.body
        wait_for_answer(web, flow["id"], "something else")
        clear(web)


def test_a_login_of_the_clients_own_is_not_replaced(web):
    """A native client's flow is sent again with its own login while that is remembered, and never with a label."""
    own = web.world.aws.login("desktop")["accessToken"]
    web.shown.add(own)
    with web.client(headers={"Authorization": f"Bearer {own}"}) as client:
        body = {"conversationState": {"currentMessage": {}}}
        client.post(web.base.removesuffix("/v1") + "/generateAssistantResponse", json=body)
    (flow,) = finished(web)
    assert flow["comment"].startswith("passed as it came")
    kiro = web.world.kiro
    with web.web() as page:
        page.post(f"/flows/{flow['id']}/replay")
        assert kiro.wait_for_request("generate", 2).bearer == own
        copy = page.post(f"/flows/{flow['id']}/duplicate").text
        page.post(f"/flows/{copy}/replay")
    wait_for_answer(web, copy, "not kept")
    assert len(kiro.of("generate")) == 2


def test_saved_flows_are_sent_again_by_another_process(kiro_world, web, confdir, tmp_path):
    """`mitmdump -C FILE` asks again with today's tokens, and its flow detail shows the readable views."""
    assert said(ask(web, "kimi", KIMI)) == "hello kimi"
    assert said(ask(web, "kiro", KIRO | {"stream": True})) == "hello kiro"
    finished(web, 2)
    file = tmp_path / "saved.mitm"
    with web.web() as page:
        file.write_bytes(page.get("/flows/dump").content)
    assert not web.secrets_in(file.read_bytes())
    kiro_world.kimi.oauth.reject_access()  # since then the tokens have been renewed
    for family in kiro_world.aws.families:
        family.access.clear()
    options = [f"client_replay={file}", "content_view_lines_cutoff=40"]
    again = Detailed(kiro_world, tmp_path / "again", confdir, options=options, data=web.data, wait=False)
    process = again.launch()
    try:
        assert process.wait(REPLAY_SECONDS) == 0, again.log()
    finally:
        again.kill()
    log = again.log()
    assert "── Text" in log
    assert "Kiro request" in log
    final = [flow for flow in again.flows() if "attempt_of" not in flow.metadata[record.METADATA]]
    assert [flow.response.status_code for flow in final] == [200, 200]
    for flow, words in zip(final, ("kimi", "kiro"), strict=True):
        assert f"hello {words}" in answer.render(flow.response.content)
        assert flow.comment.startswith(words)
    again.assert_clean()


def test_neither_side_shows_a_secret(web, tmp_path):
    """Nothing that is kept, saved, exported or shown holds a token or a credential that the client sent."""
    web.accounts(2)
    web.world.kiro.queue(REFUSALS["rate"].script())
    ask(web, "kimi", KIMI, **{"x-api-key": "client-own-secret"})
    ask(web, "kiro", KIRO | {"stream": True})
    finished(web, 3)
    shown = [everything(web, tmp_path)]
    for flow_id in flow_ids(web):
        for message in ("request", "response"):
            for view in ("as%20the%20client%20sent%20it", "kiro%20wire"):
                with contextlib.suppress(AssertionError):  # an attempt may have no answer
                    shown.append(looked_at(web, flow_id, message, view)[1].encode())
    assert not web.secrets_in(b"\n".join(shown))


def test_flows_of_a_file_start_nothing(kiro_world, confdir, web, tmp_path):
    """Loading a file asks nobody, be its flows with or without an answer."""
    assert said(ask(web, "kiro", KIRO)) == "hello kiro"
    finished(web)
    file = tmp_path / "saved.mitm"
    with web.web() as page:
        file.write_bytes(page.get("/flows/dump").content)
    before = len(kiro_world.kiro.of("generate"))
    script = tmp_path / "unanswered.py"
    script.write_text(
        "import asyncio\nfrom mitmproxy import ctx, io\n\n\n"
        "async def load_all():\n"
        f"    for flow in io.read_flows_from_paths([{str(file)!r}]):\n"
        "        await ctx.master.load_flow(flow)\n"
        "        copy = flow.copy()\n"
        "        copy.response = None\n"
        "        await ctx.master.load_flow(copy)\n"
        "    print('all loaded')\n"
        "    ctx.master.shutdown()\n\n\n"
        "def running():\n"
        "    load.task = asyncio.ensure_future(load_all())\n\n\n"
        "def load(loader):\n    pass\n"
    )
    loading = KiroProxy(kiro_world, tmp_path / "loading", confdir, data=web.data, scripts=(ADDON, script), wait=False)
    process = loading.launch()
    try:
        assert process.wait(REPLAY_SECONDS) == 0, loading.log()
    finally:
        loading.kill()
    assert "all loaded" in loading.log()
    assert len(kiro_world.kiro.of("generate")) == before
    loading.assert_clean()
