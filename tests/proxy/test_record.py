import pytest
from mitmproxy.addons import save, view
from mitmproxy.io import FlowReader
from mitmproxy.test import taddons, tflow, tutils
from mitmproxy.utils import emoji

from kimi_core.exchange import Story
from kimi_core.proxy import record, sides


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


@pytest.mark.parametrize("fact", ["reason", "error"])
def test_failures_are_marked(fact):
    """An exchange that ended in an error has a mark of its own, whatever else there is to mark."""
    flow = tflow.tflow()
    record.tell(flow, Story("kimi", {fact: "quota"}, {"a": 1}), 2, "4f9a1c")
    assert flow.marked == record.FAILED
    assert flow.comment.endswith("2 attempts · repaired: a ×1 · #4f9a1c")
    assert flow.metadata[record.METADATA]["exchange"] == "4f9a1c"
    broken = tflow.tflow(err=True)
    record.tell(broken, Story("kimi"), 1, "4f9a1c")
    assert broken.marked == record.FAILED
    assert broken.comment == "kimi"


def test_marks_of_the_user_stay():
    """A mark that the user has set stays where there is nothing to mark; one of ours goes."""
    flow = tflow.tflow()
    flow.marked = ":heart:"
    record.tell(flow, Story("kimi"), 1)
    assert flow.marked == ":heart:"
    flow.marked = record.FAILED
    record.tell(flow, Story("kimi"), 1)
    assert flow.marked == ""
    assert all(mark.strip(":") and mark in emoji.emoji for mark in record.MARKS)


def test_a_cut_answer_is_told():
    """The comment says how much of an answer is kept."""
    flow = tflow.tflow(resp=True)
    flow.response.data.content = b"x" * 1024
    sides.keep_cut(flow, 4096)
    record.tell(flow, Story("kimi"), 1)
    assert flow.comment == "kimi · 1.0 KiB of 4.0 KiB kept (kimi_record_limit)"
    record.tell_native(flow)
    assert flow.comment.startswith("passed as it came, with the client's own login · 1.0 KiB of")
    flow.response = None
    assert record.cut_note(flow) == ""


def test_ids_are_short_and_differ():
    """An id can be typed."""
    ids = {record.new_id() for _ in range(50)}
    assert len(ids) == 50
    assert {len(each) for each in ids} == {record.ID_LENGTH}


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
