"""Answers of the fake Kiro: event streams in good order and in every bad one, and the service's refusals."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kimi_core.wire.eventstream import encode
from tests.kiro.kiro_frames import INITIAL, METERING, PERCENT, call, event, exception, text, thought, tool
from tests.servers.script import Break, Gate, Pace, Script

EVENT_STREAM = "application/vnd.amazon.eventstream"
AWS_JSON = "application/x-amz-json-1.0"
REQUEST_ID = ("x-amzn-requestid", "00000000-0000-4000-8000-00000000fa4e")
NAMESPACE = "com.amazon.kiro.runtimeservice#"
END_TURN = event("metadataEvent", stopReason="END_TURN")

SUSPENDED = (
    "Your User ID (d-fake) temporarily is suspended. We've locked your account as a security precaution. "
    "To restore your access, contact support."
)
HIGH_LOAD = "Encountered unexpectedly high load when processing the request, please try again."


@dataclass(frozen=True, slots=True)
class Refusal:
    """One way in which the service says no, with its real words."""

    status: int
    type: str
    message: str
    reason: str | None = None
    headers: Sequence[tuple[str, str]] = ()

    def script(self, **headers: str) -> Script:
        """Return it as a whole answer; names of *headers* have "_" for "-"."""
        body = {"__type": NAMESPACE + self.type, "message": self.message, "reason": self.reason}
        more = [(name.replace("_", "-"), value) for name, value in headers.items()]
        return whole(body, self.status, [("x-amzn-errortype", f"{self.type}:"), *self.headers, *more])

    def frame(self) -> bytes:
        """Return it as an exception frame."""
        return exception(self.type, message=self.message, reason=self.reason)


# name -> the service's answer: every row of kiro.md §9, and the ways in which it is known to come
REFUSALS = {
    "profile_required": Refusal(400, "ValidationException", "profileArn is required for this request."),
    "too_long": Refusal(400, "ValidationException", "Input is too long.", "CONTENT_LENGTH_EXCEEDS_THRESHOLD"),
    "model": Refusal(
        400, "ValidationException", "Invalid model. Please select a different model to continue.", "INVALID_MODEL_ID"
    ),
    "image": Refusal(
        400,
        "ValidationException",
        "The model you selected doesn't support the image content block.",
        "IMAGE_FORMAT_UNSUPPORTED",
    ),
    "malformed": Refusal(400, "ValidationException", "Improperly formed request."),
    "quota": Refusal(
        402,
        "ServiceQuotaExceededException",
        "You have reached the limit for monthly requests.",
        "MONTHLY_REQUEST_COUNT",
    ),
    "quota_as_400": Refusal(
        400, "ThrottlingException", "Maximum Request reached for this month.", "MONTHLY_REQUEST_COUNT"
    ),
    "quota_daily": Refusal(429, "ThrottlingException", "Daily request count exceeded.", "DAILY_REQUEST_COUNT"),
    "overage": Refusal(
        402, "ServiceQuotaExceededException", "Overage limit reached.", "OVERAGE_REQUEST_LIMIT_EXCEEDED"
    ),
    "suspended": Refusal(403, "AccessDeniedException", SUSPENDED, "TEMPORARILY_SUSPENDED"),
    "token_401": Refusal(401, "AccessDeniedException", "Invalid token"),
    "token": Refusal(403, "AccessDeniedException", "The bearer token included in the request is invalid."),
    "token_expired": Refusal(403, "ExpiredTokenException", "The security token included in the request is expired"),
    "unauthorized": Refusal(403, "AccessDeniedException", "User is not authorized to make this call."),
    "feature": Refusal(403, "AccessDeniedException", "Feature is not supported.", "FEATURE_NOT_SUPPORTED"),
    "capacity": Refusal(
        429, "ThrottlingException", "Insufficient model capacity, please try again.", "INSUFFICIENT_MODEL_CAPACITY"
    ),
    "model_unavailable": Refusal(
        500, "InternalServerException", "The model is unavailable.", "MODEL_TEMPORARILY_UNAVAILABLE"
    ),
    "high_load": Refusal(500, "InternalServerException", HIGH_LOAD),
    "rate": Refusal(
        429,
        "ThrottlingException",
        "Too many requests, please wait before trying again.",
        "USER_REQUEST_RATE_EXCEEDED",
    ),
    "rate_plain": Refusal(429, "ThrottlingException", "Too many requests, please wait before trying again."),
    "timeout": Refusal(408, "RequestTimeoutException", "The request timed out."),
    "internal": Refusal(500, "InternalServerException", "Internal server error"),
    "bad_gateway": Refusal(502, "BadGatewayException", "Bad gateway"),
    "unavailable": Refusal(503, "ServiceUnavailableException", "Service is unavailable."),
    "gateway_timeout": Refusal(504, "GatewayTimeoutException", "Gateway timeout"),
    "operation": Refusal(404, "UnknownOperationException", "Unknown operation"),
    "builder_profiles": Refusal(
        403, "AccessDeniedException", "AWS Builder ID is not supported for this operation.", "FEATURE_NOT_SUPPORTED"
    ),
}


def whole(data: Any, status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> Script:
    """Return *data* as a whole JSON answer."""
    body = json.dumps(data).encode()
    length = ("content-length", str(len(body)))
    return Script([body], status, [("content-type", AWS_JSON), length, REQUEST_ID, *headers])


def stream(*steps: bytes | Gate | Pace | Break, **fields: Any) -> Script:
    """Return an event stream; each step of bytes is one chunk on the wire."""
    return Script(steps, headers=[("content-type", EVENT_STREAM), REQUEST_ID], **fields)


def in_bytes(*frames: bytes) -> Script:
    """Return an event stream of which every byte is a chunk of its own."""
    return stream(*(bytes([byte]) for byte in b"".join(frames)))


def in_one(*frames: bytes) -> Script:
    """Return an event stream of which all frames are one chunk."""
    return stream(b"".join(frames))


def cut_at(size: int, *frames: bytes) -> Script:
    """Return an event stream in chunks of *size* bytes, wherever the frames end."""
    data = b"".join(frames)
    return stream(*(data[start : start + size] for start in range(0, len(data), size)))


def paced(gate: Gate, *frames: bytes) -> Script:
    """Return an event stream whose every frame waits until a test opens the next step of *gate*."""
    return stream(*(step for frame in frames for step in (gate, frame)))


def damaged(frame: bytes, offset: int = -1) -> bytes:
    """Return *frame* with the byte at *offset* changed: the last is of the message's checksum, 8 of the prelude's."""
    data = bytearray(frame)
    data[offset] ^= 0xFF
    return bytes(data)


def wrong_length(frame: bytes) -> bytes:
    """Return *frame* with a length that is not its own, and a right checksum of the prelude."""
    lengths = (int.from_bytes(frame[:4]) + 1000).to_bytes(4) + frame[4:8]
    return lengths + zlib.crc32(lengths).to_bytes(4) + frame[12:]


def error_frame(code: str, message: str) -> bytes:
    """Return a frame of an error that no model describes: no payload, all in its headers."""
    return encode({":message-type": "error", ":error-code": code, ":error-message": message})


def ending(percentage: float = 1.5, credits_: float = 0.073) -> bytes:
    """Return the frames that close a complete answer."""
    usage = event("contextUsageEvent", contextUsagePercentage=percentage)
    return usage + event("meteringEvent", usage=credits_, unit="credit", unitPlural="credits")


def flood(count: int) -> list[bytes]:
    """Return a long answer: *count* frames of text, numbered so that a lost one shows."""
    return [INITIAL, *(text(f"{number} ") for number in range(count)), PERCENT, METERING]


# name -> an answer that a client of the service must get right, or report; what it is to become stands beside it
NASTY = {
    "bytes": in_bytes(INITIAL, text("one "), text("byte"), PERCENT, METERING),  # "one byte"
    "one-chunk": in_one(INITIAL, text("many "), text("frames"), PERCENT, METERING),  # "many frames"
    "odd-chunks": cut_at(7, INITIAL, text("odd "), text("chunks"), PERCENT, METERING),  # "odd chunks"
    "twins": stream(INITIAL, text("ha"), text("ha"), text("ha"), PERCENT, METERING),  # "hahaha"
    "surrogates": stream(
        INITIAL,
        event("assistantResponseEvent", b'{"content":"\\ud83d"}'),
        event("assistantResponseEvent", b'{"content":"\\ude00"}'),
        PERCENT,
        METERING,
    ),  # "\N{GRINNING FACE}": half of the character in each frame
    "unknown-event": stream(INITIAL, event("somethingNewEvent", content="no"), text("known"), PERCENT),  # "known"
    "followup": stream(
        INITIAL, text("answer"), event("followupPromptEvent", followupPrompt={"content": "no"}), PERCENT
    ),  # "answer"
    "object-input": stream(
        INITIAL, tool("tooluse_o", "ls"), tool("tooluse_o", "ls", input={"path": "."}, stop=True), PERCENT
    ),  # a call with {"path": "."}
    "object-pieces": stream(
        INITIAL,
        tool("tooluse_p", "ls", input={}),
        tool("tooluse_p", "ls", input={"path": "."}),
        tool("tooluse_p", "ls", input={"all": True}),
        tool("tooluse_p", "ls", stop=True),
        PERCENT,
    ),  # a call with {"path": ".", "all": true}
    "two-calls": stream(
        INITIAL, call("tooluse_1", "ls", '{"pa', 'th":1}'), call("tooluse_2", "ls", '{"path":2}'), PERCENT
    ),
    "replayed-call": stream(
        INITIAL, call("tooluse_1", "ls", '{"path":1}'), call("tooluse_1", "ls", '{"path":1}'), PERCENT
    ),  # one call
    "missing-stop": stream(
        INITIAL, tool("tooluse_m", "ls"), tool("tooluse_m", "ls", input='{"path":1}'), PERCENT, METERING
    ),  # a call with {"path": 1}
    "cut-call": stream(
        INITIAL, tool("tooluse_c", "ls"), tool("tooluse_c", "ls", input='{"pa'), PERCENT, METERING
    ),  # an error
    "no-completion": stream(INITIAL, text("cut "), text("off")),  # an error
    "cut-in-frame": stream(INITIAL, text("half"), text("lost")[:40]),  # an error
    "reset": stream(INITIAL, text("half"), Break.RESET),  # an error
    "crc": stream(INITIAL, text("good"), damaged(text("bad")), PERCENT),  # an error
    "prelude-crc": stream(INITIAL, text("good"), damaged(text("bad"), 8), PERCENT),  # an error
    "length": stream(INITIAL, text("good"), wrong_length(text("bad")), PERCENT),  # an error
    "exception-first": stream(REFUSALS["rate"].frame()),  # a failed attempt
    "exception-second": stream(INITIAL, REFUSALS["rate"].frame()),  # a failed attempt: nothing was said yet
    "exception-middle": stream(INITIAL, text("half"), REFUSALS["internal"].frame()),  # an error after "half"
    "too-long-middle": stream(
        INITIAL, text("half"), exception("ContentLengthExceededException", message="x")
    ),  # ends for its length
    "error-frame": stream(INITIAL, error_frame("InternalError", "fake words")),  # a failed attempt
    "json-200": whole(
        {"__type": NAMESPACE + "ThrottlingException", "message": "Too many requests", "reason": None}
    ),  # a failed attempt
    "empty": stream(INITIAL, PERCENT, METERING),  # an answer without a word
    "nothing": stream(),  # an error
    "html": Script([b"<html>Bad gateway</html>"], 502, [("content-type", "text/html")]),  # a failed attempt
    "reasoning": stream(
        INITIAL, thought(text="I "), thought(text="think"), thought(signature="fake"), text("thus"), PERCENT
    ),  # "I think", then "thus"
}
