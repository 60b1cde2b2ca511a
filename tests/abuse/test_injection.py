"""Names that others choose end up in headers, comments, logs and on terminals: nothing in them gets a meaning there."""

import json
import logging

import pytest
from mitmproxy.test import tflow, tutils

from kimi_core.cli.output import Output, Report
from kimi_core.exchange import Attempt, Story
from kimi_core.headers import Headers
from kimi_core.kimi import models, usage
from kimi_core.kiro import catalog
from kimi_core.kiro.accounts import Account, Accounts
from kimi_core.kiro.answer import AnswerOptions
from kimi_core.kiro.converter import ChatStream
from kimi_core.kiro.debug import Previews
from kimi_core.proxy import fields, guard, record
from kimi_core.view import answer, request
from kimi_core.wire import sse
from kimi_core.wire.chat_chunks import ChunkWriter
from tests.kiro.kiro_frames import INITIAL, call, event

NASTY = "k3\r\nX-Evil: 1\n[12:00:00] forged\x1b[2J\x1b]52;c;ZmFrZQ==\x07\x9b31m\u202e\x00"
STEERING = set(map(chr, [*range(9), *range(11, 32), *range(127, 160), 0x202E]))


def wire(headers):
    """Return the bytes of the fields of a request that was dressed in *headers*."""
    made = tutils.treq(headers=Headers())
    fields.set_headers(made, headers)
    return b"".join(name + b": " + value + b"\r\n" for name, value in made.headers.fields)


@pytest.mark.parametrize("value", ["a\r\nX: 1", "a\nX: 1", "a\rX: 1", "a\0b", "folded\r\n value"])
def test_a_value_begins_no_field_of_its_own(value):
    """A line end or a NUL within a value becomes a blank (RFC 9110 §5.5), a folded line one line."""
    sent = wire(Headers([("x-title", value)]))
    assert sent.count(b"\r") == sent.count(b"\n") == 1
    assert b"\0" not in sent


@pytest.mark.parametrize("raw", [b"caf\xc3\xa9", b"latin \xe9", b"\xff\xfe"])
def test_bytes_of_a_value_stay_what_they_were(raw):
    """What a client sent beyond ASCII leaves as it came."""
    came = tutils.treq(headers=[(b"x-title", raw)])
    assert wire(fields.headers_of(came)) == b"x-title: " + raw + b"\r\n"


def test_a_key_of_any_bytes_is_a_wrong_key():
    """Bytes that are no text are compared like any others, and do not stop the guard."""
    made = tflow.tflow(req=tutils.treq(headers=[(b"authorization", b"Bearer \xff\xfe")]))
    with pytest.raises(guard.KeyMissing):
        guard.check_client(made, fields.headers_of(made.request), "fake-key")


def test_a_comment_is_one_line():
    """The model is what the client says; mitmproxy shows comments as they are."""
    made = tflow.tflow(resp=True)
    record.tell(made, Story("kimi", {"model": NASTY, "finish": NASTY}), 1)
    assert not STEERING & set(made.comment)
    assert "\n" not in made.comment


def test_names_of_tools_and_models_stay_within_their_event():
    """What a service puts into names and texts makes no event of its own in a client's stream."""
    nasty = "x\n\ndata: {}\n\nevent: evil\r\r"
    frames = INITIAL + event("assistantResponseEvent", content=nasty) + call("id\n\ndata: 1", nasty, "{}")
    writer = ChunkWriter(completion_id="c", model=nasty, created=1, usage=True)
    stream = ChatStream(writer, AnswerOptions(), Story("kiro"), None)
    out = stream.feed(frames) + stream.finish()
    found = list(sse.events(out))
    assert all(row.startswith(b"data: ") for row in out.splitlines() if row)
    assert all(isinstance(json.loads(one.data), dict) for one in found if one.data != "[DONE]")
    assert json.loads(found[0].data)["model"] == nasty


def test_lists_of_the_services_steer_nothing():
    """Ids and names of models, limits and plans are written out where they come in."""
    kimi = models.parse({"data": [{"id": NASTY, "display_name": NASTY}]}, 0.0).models[0]
    kiro = catalog.parse({"models": [{"modelId": NASTY, "modelName": NASTY, "description": NASTY}]}, 0.0).models[0]
    row = usage.parse({"usage": {"name": NASTY, "used": 1, "limit": 2}}, 0.0).rows[0]
    for shown in (kimi.id, kimi.display_name, kiro.id, kiro.name, kiro.description, row.label):
        assert not STEERING & set(shown)
    assert "\n" not in kimi.id + kiro.id + row.label


def test_labels_of_accounts_steer_nothing():
    """A label or an e-mail address, from wherever, is one line of plain text; as a file name it never serves."""
    stored = Accounts.from_json({"accounts": [{"id": "1", "label": NASTY, "email": "../../etc/\x1b[2J"}]}, "x")
    assert not STEERING & set(stored.accounts[0].label + stored.accounts[0].email)
    assert "\n" not in stored.accounts[0].label


def test_previews_of_frames_are_one_line_each(caplog):
    """The name of a frame is the service's; a log that the user asked for shows it written out."""
    caplog.set_level(logging.WARNING)
    writer = ChunkWriter(completion_id="c", model="m", created=1, usage=True)
    watched = Previews({"DEBUG_KIRO_STREAM": "1"}).answer("me", ChatStream(writer, AnswerOptions(), Story("k"), None))
    watched.feed(event(NASTY))
    assert "X-Evil" in caplog.text
    assert not STEERING & set(caplog.messages[0])
    assert "\n" not in caplog.messages[0]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_is_steered_by_our_own_styles_alone(monkeypatch, capsys, terminal):
    """Whatever is printed, and wherever it comes from, nothing in it reaches the terminal as a command; no markup."""
    out = Output(as_json=False, environ={})
    if terminal:
        for console in (out.console, out.errors):
            console._force_terminal = True
    out.show(Report({}, f"[red]{NASTY}[/nothing] :smile:"))
    out.warn(NASTY)
    out.fail(guard.FromBrowser(NASTY))
    shown = "".join(capsys.readouterr())
    assert "[red]k3" in shown
    assert ":smile:" in shown
    assert "\x1b[2J" not in shown
    assert "\x1b]" not in shown
    assert not (STEERING - {"\x1b"}) & set(shown)


def test_json_output_is_one_line_of_ascii(capsys):
    """Programs get it as JSON, in which nothing steers."""
    Output(as_json=True, environ={}).emit({"label": NASTY})
    shown = capsys.readouterr().out
    assert shown.isascii()
    assert shown.count("\n") == 1
    assert json.loads(shown)["label"] == NASTY


@pytest.mark.parametrize("render", [answer.render, request.render])
def test_views_emit_no_escapes(render):
    """A body is shown, and steers no terminal that shows it."""
    body = json.dumps({"model": NASTY, "messages": [{"role": NASTY, "content": NASTY}]}).encode()
    stream = b"data: " + json.dumps({"choices": [{"delta": {"content": NASTY}}], "model": NASTY}).encode() + b"\n\n"
    for data in (body, stream, NASTY.encode(), body + b"\x1b[2J"):
        assert not STEERING & set(render(data))


def test_an_attempt_shows_no_secret():
    """Nor does an account, whatever prints them."""
    made = Attempt(
        "POST", "https", "a", 443, "/", Headers([("a", "fake-b")]), {"authorization": "fake-secret"}, b"fake"
    )
    account = Account(id="1", access_token="fake-secret", refresh_token="fake-secret", client_secret="fake-secret")
    assert "fake-" not in repr(made) + repr(account) + str(account)
