"""The machine between events and parts."""

import pytest

from kimi_core.errors import UpstreamError
from kimi_core.kiro.answer import Answer, AnswerOptions
from kimi_core.kiro.ending import FINISH_REASONS
from kimi_core.kiro.events import (
    ContextUsage,
    Failure,
    Ignored,
    Metadata,
    Metering,
    Reasoning,
    Stopped,
    Text,
    TokenUsage,
    ToolUse,
    Unknown,
)
from kimi_core.kiro.failures import AnswerCut, AnswerFailed, ContextExceeded, ToolCallBroken
from kimi_core.wire.parts import (
    Credits,
    End,
    Failed,
    ReasoningDelta,
    TextDelta,
    ToolArguments,
    ToolCallEnd,
    ToolCallStart,
    Usage,
)

PERCENT = ContextUsage(1.5)
TOO_LONG = Failure("ValidationException", "Input is too long.", "CONTENT_LENGTH_EXCEEDS_THRESHOLD")
OUTPUT_FULL = Failure("ContentLengthExceededException", "")


def use(call_id, given=None, *, stop=False):
    """Return a fragment of a call of ls."""
    return ToolUse(call_id, "ls", given, stop)


def run(*events, **options):
    """Return the answer to *events* and its parts."""
    answer = Answer(AnswerOptions(**options))
    parts = [part for event in events for part in answer.take(event)]
    parts += answer.finish()
    assert sum(isinstance(part, End | Failed) for part in parts) == 1
    assert isinstance(parts[-1], End | Failed)
    assert answer.ended
    assert answer.finish() == answer.take(Text("more")) == answer.fail(UpstreamError("late")) == []
    return answer, parts


def shape(parts):
    """Return what a reader sees: text, reasoning, names of calls, and how it ended."""
    end = parts[-1]
    return (
        "".join(part.text for part in parts if isinstance(part, TextDelta)),
        "".join(part.text for part in parts if isinstance(part, ReasoningDelta)),
        [part.index for part in parts if isinstance(part, ToolCallEnd)],
        end.reason if isinstance(end, End) else type(end.error),
    )


def test_a_whole_answer():
    """Events become parts in their order; credits, usage and the end come last."""
    answer, parts = run(
        Ignored("initial-response"),
        Reasoning("hm", "sig"),
        Text("", "claude"),
        Text("Hello", "claude"),
        use("t", '{"a":1}', stop=True),
        Text("!"),
        Unknown("newEvent"),
        Metadata("TOOL_USE"),
        PERCENT,
        Metering(0.07),
        window=1000,
    )
    assert parts == [
        ReasoningDelta("hm", "sig"),
        TextDelta("Hello"),
        ToolCallStart(0, "t", "ls"),
        ToolArguments(0, '{"a":1}'),
        ToolCallEnd(0),
        TextDelta("!"),
        Credits(0.07),
        Usage(11, 4, estimated=True),
        End("tool_calls"),
    ]
    assert (answer.model, answer.stop_reason, answer.finish_reason) == ("claude", "TOOL_USE", "tool_calls")
    assert list(answer.unknown) == ["newEvent"]
    assert answer.calls.ids == ["t"]


def test_equal_deltas_are_all_text():
    """What looks like a repetition is what the model wrote."""
    _, parts = run(Text("18"), Text("3"), Text("3"), PERCENT)
    assert [part.text for part in parts if isinstance(part, TextDelta)] == ["18", "3", "3"]


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([Text("x"), PERCENT], "stop"),
        ([Text("x"), Metering(None)], "stop"),
        ([Text("x"), Stopped()], "stop"),
        ([Text("x"), Metadata("END_TURN")], "stop"),
        ([Text("x"), Metadata("SOMETHING_NEW")], "stop"),
        ([PERCENT], "stop"),
        ([use("t", stop=True), Metadata("END_TURN")], "tool_calls"),
        ([use("t"), PERCENT], "tool_calls"),
        ([use("t", '{"a":1}'), PERCENT], "tool_calls"),
        ([use("t", stop=True), Metadata("SOMETHING_NEW")], "tool_calls"),
        ([use("t", stop=True), Metadata("MAX_TOKENS")], "length"),
        *(([Text("x"), Metadata(kiro)], reason) for kiro, reason in FINISH_REASONS.items()),
        ([Text("x"), ContextUsage(100.0)], "length"),
        ([Text("x"), OUTPUT_FULL], "length"),
        ([Text("x"), TOO_LONG], "length"),
        ([ContextUsage(100.0)], ContextExceeded),
        ([Metadata("MODEL_CONTEXT_WINDOW_EXCEEDED")], ContextExceeded),
        ([OUTPUT_FULL], ContextExceeded),
        ([TOO_LONG], ContextExceeded),
        ([use("t", '{"a'), OUTPUT_FULL], ContextExceeded),
        ([], AnswerCut),
        ([Text("x")], AnswerCut),
        ([Text("x"), ContextUsage(None)], "stop"),
        ([use("t", '{"a":1}', stop=True)], AnswerCut),
        ([use("t")], AnswerCut),
        ([Metadata(None, TokenUsage(1, 2), 3.0)], AnswerCut),
        ([use("t", '{"a'), PERCENT], ToolCallBroken),
        ([use("t", '{"a', stop=True), PERCENT], ToolCallBroken),
        ([use("t", '{"a'), Metadata("MAX_TOKENS")], ToolCallBroken),
        ([Text("x"), Metadata("TOOL_USE")], ToolCallBroken),
        ([Text("x"), Metadata("MALFORMED_TOOL_USE")], AnswerFailed),
        ([Text("x"), Metadata("MALFORMED_MODEL_OUTPUT")], AnswerFailed),
        ([Text("x"), Failure("ThrottlingException", "slow down")], AnswerFailed),
        ([Text("x"), PERCENT, Failure("InternalServerException")], AnswerFailed),
    ],
)
def test_ends(events, reason):
    """How an answer ends is decided by the table of stop reasons, its calls, and whether it is complete."""
    _, parts = run(*events)
    assert shape(parts)[-1] == reason


def test_failures_are_explained_by_the_caller():
    """Who knows the accounts says what a failure means; the failure itself is kept."""
    said = UpstreamError("said so")
    answer, parts = run(Text("x"), Failure("Strange"), explain=lambda _: said)
    assert parts[-1] == Failed(said)
    assert (answer.error, answer.failure) == (said, Failure("Strange"))


def test_failure_message():
    """The service's words reach the client."""
    failure = Failure("ThrottlingException", "slow down", "WHY")
    _, parts = run(failure)
    assert str(parts[-1].error) == "Kiro reports ThrottlingException (WHY): slow down"
    assert parts[-1].error.failure == failure
    _, parts = run(Failure("Strange"))
    assert str(parts[-1].error) == "Kiro reports Strange."


def test_a_broken_line_gives_out_what_was_held():
    """Text that was held back is text; the error comes after it."""
    answer = Answer(AnswerOptions(stop=("STOP",)))
    parts = answer.take(Text("one ST")) + answer.fail(UpstreamError("broke"))
    assert shape(parts) == ("one ST", "", [], UpstreamError)
    assert answer.finish_reason is None
    answer = Answer(AnswerOptions(stop=("STOP",), max_tokens=0.5))
    parts = answer.take(Text("12S")) + answer.fail(UpstreamError("broke"))
    assert shape(parts) == ("12", "", [], "length"), "what was held was too much already"


@pytest.mark.parametrize(
    ("events", "options", "expected"),
    [
        pytest.param([Text("one ST"), Text("OP two")], {"stop": ("STOP",)}, ("one ", "", [], "stop"), id="stop"),
        pytest.param([Text("one ST"), PERCENT], {"stop": ("STOP",)}, ("one ST", "", [], "stop"), id="no stop"),
        pytest.param(
            [use("t", stop=True), Text("STOP"), Text("x")],
            {"stop": ("STOP",)},
            ("", "", [0], "tool_calls"),
            id="call, stop",
        ),
        pytest.param(
            [use("t", '{"a'), Text("STOP"), Text("x"), Reasoning("y"), use("t", '":1}', stop=True), Text("z")],
            {"stop": ("STOP",)},
            ("", "", [0], "tool_calls"),
            id="stop inside a call",
        ),
        pytest.param(
            [use("t", '{"a":1}'), Text("STOP"), use("u")],
            {"stop": ("STOP",)},
            ("", "", [0], "tool_calls"),
            id="no new call",
        ),
        pytest.param(
            [use("t", '{"a":'), Text("STOP"), use("u")],
            {"stop": ("STOP",)},
            ("", "", [], ToolCallBroken),
            id="broken call",
        ),
        pytest.param(
            [use("t", '{"a":'), Text("STOP")], {"stop": ("STOP",)}, ("", "", [], AnswerCut), id="stop, then cut"
        ),
        pytest.param(
            [use("t", '{"a":1}'), Text("STOP"), PERCENT],
            {"stop": ("STOP",)},
            ("", "", [0], "tool_calls"),
            id="no stop frame",
        ),
        pytest.param([Text("12345678"), Text("x")], {"max_tokens": 1}, ("1234", "", [], "length"), id="length"),
        pytest.param([Text("1234"), PERCENT], {"max_tokens": 1}, ("1234", "", [], "stop"), id="just fits"),
        pytest.param([Text("1234"), Text("5")], {"max_tokens": 1}, ("1234", "", [], "length"), id="one more"),
        pytest.param([Text("1234"), use("t")], {"max_tokens": 1}, ("1234", "", [], "length"), id="no room for a call"),
        pytest.param(
            [Reasoning("12345"), Text("x")], {"max_tokens": 1}, ("", "1234", [], "length"), id="thoughts count"
        ),
        pytest.param(
            [use("t", '{"a":1234567}'), Text("x"), use("t", stop=True), PERCENT],
            {"max_tokens": 1},
            ("", "", [0], "length"),
            id="a call is not cut",
        ),
        pytest.param(
            [Text("123 STOP"), Text("x")], {"max_tokens": 1, "stop": ("STOP",)}, ("123 ", "", [], "stop"), id="both"
        ),
        pytest.param(
            [Text("123456ST"), Failure("F")],
            {"max_tokens": 2, "stop": ("STOP",)},
            ("123456ST", "", [], AnswerFailed),
            id="fail",
        ),
        pytest.param(
            [Text("123456ST"), PERCENT],
            {"max_tokens": 1, "stop": ("STOP",)},
            ("1234", "", [], "length"),
            id="length, stop",
        ),
        pytest.param(
            [Text("12S"), Failure("F")],
            {"stop": ("STOP",), "max_tokens": 0.5},
            ("12", "", [], "length"),
            id="flush ends it",
        ),
        pytest.param(
            [Text("12S"), PERCENT],
            {"stop": ("STOP",), "max_tokens": 0.5},
            ("12", "", [], "length"),
            id="flush ends, whole",
        ),
        pytest.param(
            [Text("```json\n{}"), Text("\n```"), PERCENT], {"bare_json": True}, ("{}", "", [], "stop"), id="fence"
        ),
        pytest.param([Text("```json\n{}")], {"bare_json": True}, ("```json\n{}", "", [], AnswerCut), id="cut fence"),
        pytest.param(
            [Text("<thinking>h"), Text("m</thinking>\n\nHi"), PERCENT],
            {"thinking_tags": True},
            ("Hi", "hm", [], "stop"),
            id="tags",
        ),
        pytest.param(
            [Text("<thinking>hm"), PERCENT], {"thinking_tags": True}, ("", "hm", [], "stop"), id="tags without an end"
        ),
        pytest.param(
            [Reasoning("hm"), Text("<thinking>hm</thinking>Hi"), PERCENT],
            {"thinking_tags": True},
            ("Hi", "hm", [], "stop"),
            id="native thoughts and tags",
        ),
        pytest.param(
            [Text("<thinking>12345</thinking>Hi"), PERCENT],
            {"thinking_tags": True, "max_tokens": 1},
            ("", "1234", [], "length"),
            id="tagged thoughts count",
        ),
        pytest.param(
            [Text("<thinking>x</thinking>Hi"), PERCENT], {}, ("<thinking>x</thinking>Hi", "", [], "stop"), id="tags off"
        ),
        pytest.param([Text("a\ud83d"), Text("\ude00"), PERCENT], {}, ("a😀", "", [], "stop"), id="surrogates"),
        pytest.param([Reasoning("a\ud83d"), Text("x"), PERCENT], {}, ("x", "a\ufffd", [], "stop"), id="half a thought"),
        pytest.param([Text("a\ud83d"), PERCENT], {}, ("a\ufffd", "", [], "stop"), id="half a text"),
    ],
)
def test_what_is_done_here(events, options, expected):
    """Stop sequences, the limit, bare JSON, tags and surrogates are dealt with here, as the options say."""
    _, parts = run(*events, **options)
    assert shape(parts) == expected


def test_a_local_end_comes_at_once():
    """Nothing is waited for after a stop sequence; what is learned later is still known."""
    answer = Answer(AnswerOptions(stop=("STOP",), prompt_tokens=9))
    assert answer.take(Text("STOP")) == [Usage(9, 0, estimated=True), End("stop")]
    assert answer.take(Metadata("END_TURN", TokenUsage(5, 6))) == answer.take(Metering(1.0)) == []
    assert answer.tokens.usage() == Usage(5, 6)
    assert answer.credits == Credits(1.0)


def test_thoughts_without_text():
    """Signatures and redacted blocks go on, and count as nothing that a client has seen."""
    answer, parts = run(Reasoning("", "sig"), Reasoning("", None, "QQ=="), Reasoning(), TOO_LONG)
    assert parts[:2] == [ReasoningDelta("", "sig"), ReasoningDelta("", None, "QQ==")]
    assert isinstance(parts[-1].error, ContextExceeded)
    assert (answer.thoughts.text, answer.thoughts.signature, answer.thoughts.redacted) == ("", "sig", ("QQ==",))


def test_unknown_names_are_bounded():
    """A stream of new names fills no memory."""
    answer, _ = run(*(Unknown(f"event{number}") for number in range(100)), PERCENT)
    assert len(answer.unknown) == 16


def test_percentage_of_metadata():
    """The percentage counts wherever it comes from."""
    answer, parts = run(Text("x"), Metadata("END_TURN", None, 50.0), window=1000)
    assert parts[-2].total == 500
    assert answer.tokens.percentage == 50.0


def test_nonsense_is_not_learned():
    """A percentage or a cost that makes no sense ends the answer and says nothing."""
    answer, parts = run(Text("x"), Metering(0.5), Metering(None), ContextUsage(2.0), ContextUsage(None), window=100)
    assert parts[-3:-1] == [Credits(0.5), Usage(1, 1, estimated=True)]
    assert answer.tokens.percentage == 2.0


def test_tool_names_are_the_clients():
    """Aliases are resolved on the way."""
    _, parts = run(use("t", stop=True), PERCENT, aliases={"ls": "list files"})
    assert parts[0] == ToolCallStart(0, "t", "list files")
