import gzip
import json
import re
import sys
from pathlib import Path

import pytest
from mitmproxy import contentviews, flowfilter
from mitmproxy.addons import dumper
from mitmproxy.contentviews import Metadata
from mitmproxy.test import taddons, tflow, tutils

from kimi_core.exchange import RequestHead
from kimi_core.headers import Headers
from kimi_core.proxy import internals, record, sides, views
from kimi_core.wire.eventstream import encode

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"aws event stream", "chat answer", "chat request", "as the client sent it", "kiro wire"}
CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "the question"}]}).encode()
KIRO = json.dumps({"conversationState": {"currentMessage": {"userInputMessage": {"content": "translated"}}}}).encode()
ANSWER = b'data: {"object":"chat.completion.chunk","choices":[{"delta":{"content":"the answer"}}]}\n\ndata: [DONE]\n\n'
WIRE = encode({":event-type": "assistantResponseEvent"}, b'{"content":"the frame"}')
EVENT_STREAM = "application/vnd.amazon.eventstream"
HEAD = RequestHead("POST", "http", "127.0.0.1", 8080, "/kiro/v1/chat/completions", Headers([("user-agent", "test/1")]))


@pytest.fixture(autouse=True)
def _installed():
    """Register the views for a test."""
    views.install()
    yield
    views.remove()


@pytest.fixture(autouse=True)
def _options():
    """Give mitmproxy the options that its views ask for."""
    with taddons.context(dumper.Dumper(), loadcore=True):
        yield


def a_flow(
    request=CHAT, response=ANSWER, *, path="/v1/chat/completions", sent="application/json", got="text/event-stream"
):
    """Return a flow with these bodies."""
    flow = tflow.tflow(
        req=tutils.treq(path=path.encode(), content=request, headers=Headers([])),
        resp=tutils.tresp(content=response, headers=Headers([])),
    )
    flow.request.headers["content-type"] = sent
    flow.response.headers["content-type"] = got
    return flow


def ours(flow):
    """Make *flow* one that went through here."""
    sides.keep_request(flow, HEAD, "kiro", "chat", CHAT, 10_000)
    sides.keep_answer(flow, EVENT_STREAM, WIRE, len(WIRE))
    return flow


def shown(flow, side="response", name="auto"):
    """Return the name of the view that mitmproxy shows, and its text."""
    result = contentviews.prettify_message(getattr(flow, side), flow, name)
    return result.view_name, result.text


def test_each_body_finds_its_view():
    """Requests, answers and event streams are shown readably of themselves."""
    flow = a_flow()
    assert shown(flow, "request")[0] == "Chat request"
    name, text = shown(flow)
    assert name == "Chat answer"
    assert "the answer" in text
    assert shown(a_flow(KIRO, WIRE, path="/generateAssistantResponse", got=EVENT_STREAM)) == (
        "AWS event stream",
        shown(a_flow(response=WIRE), name="aws event stream")[1],
    )
    assert shown(a_flow(KIRO, path="/generateAssistantResponse"), "request")[0] == "Chat request"
    whole = json.dumps({"object": "chat.completion", "choices": [{"message": {"content": "x"}}]}).encode()
    assert shown(a_flow(response=whole, got="application/json"))[0] == "Chat answer"


def test_a_translated_request_of_ours_is_known_by_its_flow():
    """Kiro's body is posted to /; that it is chat is known of the flow."""
    assert shown(a_flow(KIRO, path="/", sent="application/x-amz-json-1.0"), "request")[0] != "Chat request"
    assert shown(ours(a_flow(KIRO, path="/", sent="application/x-amz-json-1.0")), "request")[0] == "Chat request"


@pytest.mark.parametrize(
    ("flow", "side", "expected"),
    [
        (a_flow(path="/api/log"), "request", "JSON"),
        (a_flow(b'{"messages": [], "model": "m"}'), "request", "JSON"),
        (a_flow(b'{"a": 1}'), "request", "JSON"),
        (a_flow(sent="text/plain"), "request", "Raw"),
        (a_flow(response=b'{"a": 1}', got="application/json"), "response", "JSON"),
        (a_flow(response=b'data: {"price": 1}\n\n'), "response", "Raw"),
        (a_flow(response=ANSWER, got="text/plain"), "response", "Raw"),
        (a_flow(response=b"", got=EVENT_STREAM), "response", "Raw"),
    ],
)
def test_other_bodies_keep_their_views(flow, side, expected):
    """What is no chat is left to mitmproxy's own views."""
    assert shown(flow, side)[0] == expected


def test_the_other_side_can_be_chosen():
    """For a flow with two sides both can be looked at, on either of its messages."""
    flow = ours(a_flow(KIRO, path="/"))
    assert "the frame" in shown(flow, name="kiro wire")[1]
    sent = shown(flow, "request", "as the client sent it")[1]
    assert sent.startswith("POST http://127.0.0.1:8080/kiro/v1/chat/completions\nuser-agent: test/1\n")
    assert "the question" in sent
    assert "translated" in shown(flow, "request", "kiro wire")[1]
    assert "the answer" in shown(flow, name="as the client sent it")[1]


def test_a_flow_without_another_side_says_so():
    """Where nothing else is kept the views say that, and show what there is."""
    flow = a_flow()
    assert "is not kept" in shown(flow, "request", "as the client sent it")[1]
    assert "came as it stands here" in shown(flow, name="kiro wire")[1]
    assert "the frame" in shown(a_flow(response=WIRE, got=EVENT_STREAM), name="kiro wire")[1]


def test_a_cut_body_says_so():
    """Each view says how much of its body is kept."""
    flow = a_flow()
    sides.keep_cut(flow, 10_000)
    sides.keep_request(flow, HEAD, "kiro", "chat", CHAT + b" " * 100, len(CHAT))
    sides.keep_answer(flow, EVENT_STREAM, WIRE[:20], 4096)
    words = "kept (kimi_record_limit)"
    assert f"of 9.8 KiB {words}" in shown(flow)[1]
    assert f"20 B of 4.0 KiB {words}" in shown(flow, name="kiro wire")[1]
    assert words in shown(flow, "request", "as the client sent it")[1]


def test_a_cut_and_compressed_body_is_read_as_far_as_it_goes():
    """Of a compressed answer that was cut its beginning is shown, although mitmproxy cannot decode it."""
    packed = gzip.compress(ANSWER * 50 + bytes(range(256)) * 20)
    flow = a_flow()
    flow.response.headers["content-encoding"] = "gzip"
    flow.response.data.content = packed[: len(packed) - 100]
    sides.keep_cut(flow, len(packed))
    assert "the answer" in shown(flow, name="chat answer")[1]


def test_views_do_without_a_flow():
    """A message without flow or type is shown as well, and claimed by nobody."""
    metadata = Metadata()
    for view in views.VIEWS:
        assert view.prettify(b"data: 1", metadata)
        assert view.render_priority(b"data: 1", metadata) < 0


def test_views_are_registered_once_and_taken_out():
    """Two loads of the script leave one of each, `remove` none, and a view of another addon's stays."""
    views.install()
    assert [name for name in contentviews.registry.available_views() if name in NAMES] == sorted(NAMES)

    class Other(contentviews.Contentview):
        name = "Kiro wire"

        def prettify(self, data, metadata):
            return ""

    other = Other()
    contentviews.add(other)
    views.remove()
    views.remove()
    assert NAMES & set(contentviews.registry) == {"kiro wire"}
    del contentviews.registry._by_name["kiro wire"]


def test_views_stay_where_they_cannot_be_taken_out(monkeypatch):
    """A mitmproxy that keeps its views in another way keeps ours, and the script can be unloaded all the same."""
    views.install()
    monkeypatch.setattr(internals, "VIEWS", (internals.Internal("mitmproxy.contentviews", "gone"),))
    views.remove()
    assert set(contentviews.registry) >= NAMES
    monkeypatch.undo()
    views.remove()
    assert not NAMES & set(contentviews.registry)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mitmproxy's way to call pyparsing
def test_the_page_on_looking_at_traffic_names_views_and_marks():
    """The documentation has every view, every mark with its meaning, and filters that mitmproxy takes."""
    page = (ROOT / "docs" / "mitmweb.md").read_text()
    for view in views.VIEWS:
        assert f"| {view.name} |" in page
    for mark, meaning in record.MARKS.items():
        assert f"`{mark}` | {meaning} |" in page
    filters = re.findall(r"^\| `(~.*?)` \|", page, re.MULTILINE)
    assert len(filters) >= 10
    for each in filters:
        assert flowfilter.parse(each)


def test_what_mitmdump_prints(capsys):
    """With flow_detail 3 mitmdump prints the readable views."""
    printing = dumper.Dumper(sys.stdout)
    with taddons.context(printing) as tctx:
        tctx.configure(printing, flow_detail=3)
        printing.response(a_flow())
    printed = capsys.readouterr().out
    assert "the question" in printed
    assert "Chat answer, OpenAI" in printed
