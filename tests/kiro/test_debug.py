import json
import logging

import pytest

from kimi_core.errors import UpstreamError
from kimi_core.kiro.debug import Previews
from tests.kiro.kiro_frames import END, INITIAL, exception, text
from tests.kiro.service_stand_ins import STREAMED, World, social


class Echo:
    """A converter that gives back what it gets."""

    def feed(self, data):
        return data

    def finish(self):
        return b"<end>"

    def fail(self, error):
        return f"<{error.code}>".encode()


@pytest.fixture(autouse=True)
def _level(caplog):
    caplog.set_level(logging.WARNING)


@pytest.mark.parametrize("value", [None, "", "0", "true"])
def test_nothing_is_logged_unless_asked_for(caplog, value):
    """Without the switches set to 1 nothing is logged and nothing stands in the way."""
    environ = {} if value is None else {"DEBUG_KIRO_PAYLOAD": value, "DEBUG_KIRO_STREAM": value}
    previews, echo = Previews(environ), Echo()
    previews.request("a", b"{}")
    assert previews.answer("a", echo) is echo
    assert caplog.text == ""


def test_frames_are_named_and_measured(caplog):
    """Each frame is logged by its name and size, never by what it says; the bytes pass as they are."""
    watched = Previews({"DEBUG_KIRO_STREAM": "1"}).answer("label", Echo())
    data = INITIAL + text("very private") + exception("ThrottlingException", message="private, too") + END
    assert b"".join(watched.feed(data[at : at + 7]) for at in range(0, len(data), 7)) == data
    assert watched.finish() == b"<end>"
    assert watched.fail(UpstreamError("x")) == b"<upstream_error>"
    assert "assistantResponseEvent" in caplog.text
    assert "ThrottlingException" in caplog.text
    assert "private" not in caplog.text


def test_damaged_answers_are_passed_on_all_the_same(caplog):
    """A frame that cannot be read is noted once; what comes after passes unlogged."""
    watched = Previews({"DEBUG_KIRO_STREAM": "1"}).answer("label", Echo())
    assert watched.feed(b"x" * 20) == b"x" * 20
    assert watched.feed(b"y") == b"y"
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("ended", [True, False])
def test_whether_the_client_has_everything_is_passed_on(ended):
    """A watched converter ends when the one inside ends."""
    inner = Echo()
    inner.ended = ended
    assert Previews({"DEBUG_KIRO_STREAM": "1"}).answer("label", inner).ended is ended


async def test_a_request_is_outlined(tmp_path, caplog):
    """With the switch each attempt's request is outlined without text, token or profile."""
    world = World(tmp_path, social(), environ={"DEBUG_KIRO_PAYLOAD": "1"})
    body = json.loads(STREAMED)
    body["messages"][0]["content"] = "very private"
    await world.exchange().prepare(json.dumps(body).encode())
    assert "Kiro request of label_a" in caplog.text
    assert "claude-sonnet-4.5" in caplog.text
    assert "very private" not in caplog.text
    assert "fake-access" not in caplog.text
