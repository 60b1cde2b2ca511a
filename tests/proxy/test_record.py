import pytest
from mitmproxy.addons import save, view
from mitmproxy.io import FlowReader
from mitmproxy.test import taddons, tflow, tutils

from kimi_core.exchange import Story
from kimi_core.proxy import record


@pytest.mark.parametrize(
    ("story", "attempts", "comment", "marked"),
    [
        (Story("kimi"), 1, "kimi", ""),
        (Story("kimi", {"model": "k3", "effort": "high", "none": None, "empty": ""}), 1, "kimi · k3 · effort high", ""),
        (Story("kimi", {"tokens in": 0}), 2, "kimi · tokens in 0 · 2 attempts", record.RETRIED),
        (Story("kimi", {}, {"empty-content": 3}), 1, "kimi · repaired: empty-content ×3", record.REPAIRED),
        (
            Story("kimi", {"operation": "files"}, {"a": 1}),
            3,
            "kimi · files · 3 attempts · repaired: a ×1",
            record.RETRIED,
        ),
    ],
)
def test_a_flow_tells_its_story(story, attempts, comment, marked):
    """The comment holds provider, facts, attempts and repairs in one line; repairs and retries are marked."""
    flow = tflow.tflow()
    record.tell(flow, story, attempts)
    assert flow.comment == comment
    assert flow.marked == marked
    assert flow.metadata[record.METADATA]["attempts"] == attempts


@pytest.mark.parametrize("response", [tutils.tresp(status_code=401), None])
async def test_an_attempt_is_a_flow_of_its_own(response, tmp_path):
    """A failed attempt appears in the list and in the file as a flow with its answer or its error."""
    listed, saved = view.View(), save.Save()
    with taddons.context(listed, saved) as tctx:
        tctx.configure(saved, save_stream_file=str(tmp_path / "flows"))
        flow = tflow.tflow()
        await record.show_attempt(flow, response, "connection refused", "attempt 1: 401", exchange="4f9a1c", number=1)
        saved.done()
    (shown,) = list(listed)
    with (tmp_path / "flows").open("rb") as file:
        (kept,) = list(FlowReader(file).stream())
    for copy in (shown, kept):
        assert copy.id != flow.id
        assert copy.comment == "attempt 1: 401 · #4f9a1c"
        assert copy.marked == record.RETRIED
        assert copy.metadata[record.METADATA] == {"exchange": "4f9a1c", "attempt_of": flow.id, "attempt": 1}
        if response:
            assert copy.response.status_code == 401
        else:
            assert copy.error.msg == "connection refused"


async def test_without_list_or_file_nothing_is_recorded():
    """A plain mitmdump without file has nowhere to put attempts, which is fine."""
    with taddons.context(loadcore=False):
        await record.show_attempt(tflow.tflow(), None, None, "attempt 1")
