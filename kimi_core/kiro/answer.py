"""A Kiro answer in parts: the machine between typed events and a dialect (kiro.md §2.3–§2.6).

Events go in one by one, `wire.parts` come out; exactly one `End` or `Failed` ends them. What upstream has no field for
is done here: stop sequences, the limit of tokens, bare JSON. An answer is complete where the service says so by a stop
reason, a percentage or a metering; text that just ends was cut off, and is reported as that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from kimi_core.errors import KimiMitmError
from kimi_core.kiro import ending, events, failures
from kimi_core.kiro.ending import LENGTH, STOP, TOOL_CALLS
from kimi_core.kiro.frames import printable
from kimi_core.kiro.text import Fence, StopSequences, Surrogates, ThinkingTags
from kimi_core.kiro.thoughts import Thoughts
from kimi_core.kiro.toolcalls import ToolCalls
from kimi_core.kiro.usage_tokens import Counter, estimate
from kimi_core.wire.parts import Credits, End, Failed, Part, ReasoningDelta, TextDelta, ToolArguments, ToolCallStart

MAX_UNKNOWN = 16  # names of unknown events that are kept for the flow


@dataclass(slots=True)
class AnswerOptions:
    """What the request wants of its answer, and what is known of its model; not altered once it is made.

    `window`: maxInputTokens of the serving model, None where unknown. `prompt_tokens`: the caller's estimate of the
    request, used where the service says nothing. `count`: estimated tokens of a text, additive over its pieces.
    `aliases`: tool name on the wire -> tool name of the client. `max_tokens`: cut text and reasoning there, by `count`.
    `thinking_tags`: take tagged reasoning from the start of the text. `bare_json`: take a single outer fence off.
    `explain`: the client's error for a failure.
    """

    window: int | None = None
    prompt_tokens: int = 0
    count: Callable[[str], float] = estimate
    aliases: Mapping[str, str] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    thinking_tags: bool = False
    bare_json: bool = False
    explain: Callable[[events.Failure], KimiMitmError] = failures.explain


class _Step(Protocol):
    def push(self, text: str) -> str: ...

    def flush(self) -> str: ...


class Answer:
    """One answer on its way. `take` events, then `finish`, or `fail` where the line broke."""

    def __init__(self, options: AnswerOptions) -> None:
        self.model: str | None = None
        """The model that serves, where the service says it."""
        self.stop_reason: str | None = None
        """Kiro's own reason."""
        self.finish_reason: str | None = None
        self.error: KimiMitmError | None = None
        self.failure: events.Failure | None = None
        """What the service itself reported."""
        self.credits: Credits | None = None
        self.unknown: dict[str, None] = {}
        """Names of events that this program does not know, in order."""
        self.ended = False
        """True from `End` or `Failed` on; later events only add to what is known."""
        self.tokens = Counter(options.window, options.prompt_tokens, count=options.count, limit=options.max_tokens)
        self.calls = ToolCalls(options.aliases)
        self._options = options
        self._visible = False  # something that a client sees has gone out
        self._complete = False  # a completion signal came
        self._cut: str | None = None  # the finish reason of a local end that waits for a tool call
        self._tagged: list[str] = []  # thoughts that the tags gave, on their way out
        self.thoughts = Thoughts()
        """Native reasoning so far, to be given back with the turn."""
        self._text_halves, self._thought_halves = Surrogates(), Surrogates()
        self._stops = StopSequences(options.stop)
        self._steps = tuple(self._build_steps())
        self._plain = not self._steps and options.max_tokens is None  # nothing is done to the text: the short way

    def take(self, event: events.Event) -> list[Part]:
        """Return the parts that *event* adds."""
        kind = type(event)
        give = self._GIVE.get(kind)
        if give is None:
            learn = self._LEARN.get(kind)
            if learn is not None:
                learn(self, event)
            return []
        if self.ended:
            return []
        try:
            return give(self, event)
        except failures.ToolCallBroken as error:
            return self.fail(error)

    def finish(self) -> list[Part]:
        """Say that no event follows; return what is left and the end."""
        if self.ended:
            return []
        parts = self._flush()
        if self.finish_reason is not None:  # what was held back led to a local end
            return parts
        error = self._flaw()
        reason = self._cut or ending.finish_reason(self.stop_reason, full=self.tokens.full())
        try:
            return parts + (self.fail(error) if error else self._close(reason))
        except failures.ToolCallBroken as broken:
            return parts + self.fail(broken)

    def fail(self, error: KimiMitmError) -> list[Part]:
        """Say that the answer is broken; return what was held back of its text, and the failure."""
        if self.ended:
            return []
        parts = self._flush()
        if self.finish_reason is None:
            self.ended, self.error = True, error
            parts.append(Failed(error))
        return parts

    def _build_steps(self) -> Iterable[_Step]:
        if self._options.thinking_tags:
            yield ThinkingTags(self._tagged.append)
        if self._options.bare_json:
            yield Fence()
        if self._options.stop:
            yield self._stops

    # events that give parts

    def _text(self, event: events.Text) -> list[Part]:
        if self.model is None and event.model:
            self.model = printable(event.model)
        if not event.content or self._cut:
            return []
        text = self._text_halves.push(event.content)
        if self._plain and text:
            self.tokens.add(text)
            self._visible = True
            return [TextDelta(text)]
        for step in self._steps:
            text = step.push(text)
        return self._give_text(text)

    def _reasoning(self, event: events.Reasoning) -> list[Part]:
        self.thoughts.add(event)
        if self._cut:
            return []
        return self._give_reasoning(self._thought_halves.push(event.text), event.signature, event.redacted)

    def _tool_use(self, event: events.ToolUse) -> list[Part]:
        if (self._cut or self.tokens.spent) and self.calls.begins(event):
            return self._close(self._cut or LENGTH)
        parts: list[Part] = []
        for part in self.calls.take(event):
            parts.append(part)
            if isinstance(part, ToolCallStart):
                self._visible = True
            elif isinstance(part, ToolArguments):
                self.tokens.add(part.text)
        if self._cut and not self.calls.open:
            parts += self._end(self._cut)
        return parts

    def _failure(self, event: events.Failure) -> list[Part]:
        parts = self._flush()
        if self.finish_reason is not None:  # what was held back led to a local end
            return parts
        if failures.is_overflow(event) and self._visible and not self.calls.open:
            return parts + self._end(LENGTH)
        self.failure = event
        return parts + self.fail(self._options.explain(event))

    # events that only tell something

    def _context_usage(self, event: events.ContextUsage) -> None:
        self._complete = True
        if event.percentage is not None:
            self.tokens.percentage = event.percentage

    def _metering(self, event: events.Metering) -> None:
        self._complete = True
        if event.usage is not None:
            self.credits = Credits(event.usage, event.unit)

    def _metadata(self, event: events.Metadata) -> None:
        if event.stop_reason is not None:
            self._complete, self.stop_reason = True, event.stop_reason
        if event.tokens is not None:
            self.tokens.learn(event.tokens)
        if event.percentage is not None:
            self.tokens.percentage = event.percentage

    def _stopped(self, _event: events.Stopped) -> None:
        self._complete = True

    def _unknown(self, event: events.Unknown) -> None:
        if len(self.unknown) < MAX_UNKNOWN:
            self.unknown[event.name] = None

    # what goes out

    def _give_text(self, text: str) -> list[Part]:
        parts = self._give_tagged() if self._tagged else []
        if text and not self._cut:
            fits = self.tokens.admit(text)
            if fits:
                self._visible = True
                parts.append(TextDelta(fits))
            if len(fits) < len(text):
                self._cut = LENGTH
        if self._stops.hit:
            self._cut = self._cut or STOP
        return parts + self._cut_off() if self._cut else parts

    def _give_tagged(self) -> list[Part]:
        text = "".join(self._tagged)
        self._tagged.clear()
        # where the service gives its thoughts as events as well, the tagged ones are the same once more
        return [] if self._cut or self.thoughts.seen else self._give_reasoning(text)

    def _give_reasoning(self, text: str, signature: str | None = None, redacted: str | None = None) -> list[Part]:
        fits = self.tokens.admit(text)
        parts: list[Part] = []
        if fits or signature or redacted:
            self._visible = self._visible or bool(fits)
            parts.append(ReasoningDelta(fits, signature, redacted))
        if len(fits) < len(text):
            self._cut = LENGTH
            parts += self._cut_off()
        return parts

    def _cut_off(self) -> list[Part]:
        """End the answer here, or where an open tool call ends: half of one is worth nothing."""
        return [] if self.ended or self._cut is None or self.calls.open else self._end(self._cut)

    def _flush(self) -> list[Part]:
        """Return what was held back of text and reasoning."""
        if self._cut:
            return []
        thought = self._thought_halves.flush()
        parts = self._give_reasoning(thought) if thought else []
        text = self._text_halves.flush()
        for step in self._steps:
            text = step.push(text) + step.flush()
        return parts + self._give_text(text)

    def _flaw(self) -> KimiMitmError | None:
        """Return why the answer that has come to its end is none."""
        return ending.flaw(
            self.stop_reason,
            complete=self._complete,
            visible=self._visible,
            called=bool(self.calls.ids),
            full=self.tokens.full(),
        )

    def _close(self, reason: str) -> list[Part]:
        return [*self.calls.finish(), *self._end(reason)]

    def _end(self, reason: str) -> list[Part]:
        if reason == STOP and self.calls.ids:
            reason = TOOL_CALLS
        self.ended, self.finish_reason = True, reason
        told: list[Part] = [self.credits] if self.credits else []
        return [*told, self.tokens.usage(), End(reason)]

    _GIVE: ClassVar[dict[type, Callable[[Any, Any], list[Part]]]] = {
        events.Text: _text,
        events.Reasoning: _reasoning,
        events.ToolUse: _tool_use,
        events.Failure: _failure,
    }
    _LEARN: ClassVar[dict[type, Callable[[Any, Any], None]]] = {
        events.ContextUsage: _context_usage,
        events.Metering: _metering,
        events.Metadata: _metadata,
        events.Stopped: _stopped,
        events.Unknown: _unknown,
    }
