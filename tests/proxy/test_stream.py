import gzip
import logging

import pytest

from kimi_core.errors import UpstreamError
from kimi_core.proxy.stream import AnswerStream, Tape
from kimi_core.wire.codings import decoder_for


class Upper:
    """A converter that holds back what is no whole line."""

    def __init__(self):
        self.rest = b""

    def feed(self, data):
        lines, _, self.rest = (self.rest + data).rpartition(b"\n")
        return (lines + b"\n").upper() if lines else b""

    def finish(self):
        return self.rest

    def fail(self, error):
        return self.rest + f"ERROR {error}".encode()


class Broken(Upper):
    def feed(self, data):
        raise ValueError(data.decode())

    def fail(self, error):
        raise KeyError("again")


def test_nothing_now_is_an_empty_list():
    """An empty piece would end a chunked HTTP/1.1 message, so "nothing yet" is []."""
    stream = AnswerStream(Upper(), None, Tape(100))
    assert stream(b"ab") == []
    assert stream(b"c\nd") == [b"ABC\n"]
    assert stream(b"") == [b"d"]
    assert stream.tape.take() == b"ABC\nd"


def test_a_converter_may_be_done_before_its_answer():
    """A converter that says it has ended makes the stream over; one that cannot say so never does."""
    converter = Upper()
    assert not AnswerStream(converter, None, Tape(100)).over
    converter.ended = False
    stream = AnswerStream(converter, None, Tape(100))
    stream(b"a")
    assert not stream.over
    converter.ended = True
    stream(b"b")
    assert stream.over
    assert not AnswerStream(None, None, Tape(1)).over


def test_an_answer_that_ends_in_the_middle_of_its_coding_is_cut():
    """HTTP says that all has come, the coding that it has not: the client is told."""
    packed = gzip.compress(b"one\ntwo\n")
    stream = AnswerStream(Upper(), decoder_for("gzip"), Tape(100))
    assert stream(packed[:-1]) == [b"ONE\nTWO\n"]
    assert b"ERROR" in b"".join(stream(b""))
    assert stream.over
    assert not stream.broken
    plain = AnswerStream(None, decoder_for("gzip"), Tape(100))
    assert plain(packed[:-1]) == [b"one\ntwo\n"]
    assert plain(b"") == []
    assert plain.over
    assert plain.broken
    whole = AnswerStream(Upper(), decoder_for("gzip"), Tape(100))
    assert whole(packed) == [b"ONE\nTWO\n"]
    assert whole(b"") == []


def test_without_converter_pieces_pass_as_they_are():
    """An answer that nobody converts passes piece by piece."""
    stream = AnswerStream(None, None, Tape(3))
    assert stream(b"abcd") == [b"abcd"]
    assert stream(b"") == []
    assert stream.tape.take() == b"abc"
    assert stream.fail(UpstreamError("x")) is None
    assert stream.broken
    assert stream.fail(UpstreamError("x")) is None


def test_encoded_answers_are_decoded():
    """What arrives gzipped leaves plain."""
    import gzip

    stream = AnswerStream(Upper(), decoder_for("gzip"), Tape(10))
    packed = gzip.compress(b"hi\n")
    assert b"".join(piece for byte in packed for piece in stream(bytes([byte]))) == b"HI\n"


def test_an_exception_becomes_an_error_for_the_client(caplog):
    """A converter that raises ends the answer with an error instead of losing a piece under a 200."""

    class Raises(Upper):
        def feed(self, data):
            raise ValueError

    stream = AnswerStream(Raises(), None, Tape(100))
    with caplog.at_level(logging.ERROR):
        assert stream(b"abc") == [b"ERROR The answer of the service could not be read."]
    assert stream(b"more") == []
    assert stream(b"") == []
    assert stream.fail(UpstreamError("late")) == b""


def test_a_converter_that_cannot_even_fail(caplog):
    """When the error cannot be written either, the answer is ended without a word and nothing raises."""
    stream = AnswerStream(Broken(), None, Tape(100))
    assert stream(b"abc") == []
    assert stream(b"def") == []


def test_logged_failures_hold_no_message(caplog):
    """The message of a converter's exception may quote the answer, so it is not logged."""
    AnswerStream(Broken(), None, Tape(1))(b"fake-secret")
    assert "fake-secret" not in caplog.text
    assert "ValueError" in caplog.text


@pytest.mark.parametrize(("limit", "kept"), [(0, b""), (2, b"ab"), (5, b"abcde"), (9, b"abcdef")])
def test_tape_keeps_the_beginning(limit, kept):
    """A tape keeps as much as it was told to."""
    tape = Tape(limit)
    for piece in (b"abc", b"", b"def"):
        tape.add(piece)
    assert tape.take() == kept


def test_what_the_service_sent_is_kept_beside_what_the_client_got():
    """A second tape has the decoded bytes before their conversion."""
    wire = Tape(100)
    stream = AnswerStream(Upper(), decoder_for("gzip"), Tape(100), wire)
    packed = gzip.compress(b"hello\n")
    for piece in (packed[:9], packed[9:], b""):
        stream(piece)
    assert wire.take() == b"hello\n"
    assert stream.tape.take() == b"HELLO\n"


def test_a_tape_counts_what_it_does_not_keep():
    """The length is that of the whole, and what was taken is held no longer."""
    tape = Tape(3)
    assert tape.feed(b"ab") == b"ab"
    assert tape.feed(b"cd") == b"cd"
    assert tape.length == 4
    assert tape.take() == b"abc"
    assert tape.take() == b""
