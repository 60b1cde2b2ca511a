"""Clients of HTTP/2 that leave a stream or the connection, at every stage (RFC 9113 §5.4, §6.4, §6.8)."""

import json
import socket
from contextlib import contextmanager

import h2.connection
import h2.errors
import h2.events
import pytest

from tests.chaos.lab import DONE, GOOD, KIMI_HOST, SECONDS
from tests.chaos.raw import chunk, head
from tests.e2e.harness import wait_until
from tests.servers.serve import RESET_ON_CLOSE

HEAD = (
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", KIMI_HOST),
    (":path", "/coding/v1/chat/completions"),
    ("content-type", "application/json"),
)
EVENT = GOOD["kimi"][: GOOD["kimi"].index(b"\n\n") + 2]  # half of one would be held until it is whole
HASTY = 100  # streams that are reset as soon as they are opened; as many as may be open at a time
WAYS = ("reset", "goaway", "close", "cut")
STAGES = {  # and what the client has seen then
    "before the answer": None,
    "after the head": h2.events.ResponseReceived,
    "in the answer": h2.events.DataReceived,
}


class Client:
    """One connection to the service through the proxy, frame by frame."""

    def __init__(self, lab, sock):
        self.lab, self.sock = lab, sock
        self.sock.sendall(f"CONNECT {KIMI_HOST}:443 HTTP/1.1\r\nHost: {KIMI_HOST}:443\r\n\r\n".encode())
        assert self.sock.recv(65536).startswith(b"HTTP/1.1 200")
        trust = lab.proxy.trust(["h2"])
        trust.set_alpn_protocols(["h2"])
        self.sock = trust.wrap_socket(sock, server_hostname=KIMI_HOST)
        self.wire = h2.connection.H2Connection()
        self.wire.initiate_connection()

    def flush(self):
        self.sock.sendall(self.wire.data_to_send())

    def ask(self, share=1.0, *, whole=True):
        """Send a request, or no more than this *share* of its body and not its end; return the stream's number."""
        stream = self.wire.get_next_available_stream_id()
        body = json.dumps(self.lab.body("kimi")).encode()
        self.wire.send_headers(stream, [*HEAD, ("content-length", str(len(body)))])
        self.wire.send_data(stream, body[: int(len(body) * share)], end_stream=whole)
        self.flush()
        return stream

    def receive(self, stream, kind):
        """Return the data that came on *stream* until an event of this *kind*."""
        data = b""
        while True:
            came = self.sock.recv(65536)
            assert came, "the proxy has closed the connection"
            for event in self.wire.receive_data(came):
                if getattr(event, "stream_id", None) != stream:
                    continue
                if isinstance(event, h2.events.DataReceived):
                    data += event.data
                if isinstance(event, kind):
                    return data
            self.flush()

    def leave(self, stream, how):
        """Reset the stream, or end the connection in one of three ways."""
        if how == "reset":
            self.wire.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
        elif how == "goaway":
            self.wire.close_connection()
        elif how == "cut":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.flush()
        if how != "reset":
            self.sock.close()

    def assert_served(self):
        """Assert that the connection serves its next stream."""
        assert DONE in self.receive(self.ask(), h2.events.StreamEnded)


@contextmanager
def connected(lab):
    """Yield a connection; leaving closes it."""
    with socket.create_connection(("127.0.0.1", lab.proxy.port), SECONDS) as sock:
        client = Client(lab, sock)
        with client.sock:
            yield client


def server(lab):
    """Return the service of these requests."""
    return lab.servers["kimi", False]


@pytest.mark.parametrize("how", WAYS)
def test_a_client_that_leaves_within_its_request_sends_nothing(lab, how):
    """After its head, in its body, before its end: the service does not hear of it; other streams are served."""
    before = server(lab).served
    for share in (0.0, 0.5, 1.0):
        with connected(lab) as client:
            client.leave(client.ask(share, whole=False), how)
            if how == "reset":
                client.assert_served()
                before += 1
    lab.probe()
    assert server(lab).served == before + 1, "the probe alone"


@pytest.mark.parametrize("how", WAYS)
def test_a_client_that_leaves_takes_its_request_along(lab, how):
    """Before the answer, after its head, and in it: the service is left as well; other streams are served."""
    for number, (stage, seen) in enumerate(STAGES.items(), 1):
        gone = []

        async def script(exchange, stage=stage, gone=gone):
            if stage != "before the answer":
                await exchange.send(head(server(lab).kind))
            if stage == "in the answer":
                await exchange.send(chunk(EVENT))
            gone.append(await exchange.reader.read())

        server(lab).scripts.append(script)
        with connected(lab) as client:
            stream = client.ask()
            wait_until(lambda number=number: server(lab).scripts_taken == number, "the request", SECONDS)
            if seen is not None:
                client.receive(stream, seen)
            client.leave(stream, how)
            wait_until(lambda gone=gone: gone, f"that the service is left {stage}", SECONDS)
            if how == "reset":
                client.assert_served()


def test_streams_that_are_reset_at_once_hurt_nobody(lab):
    """By the hundred, whole requests all of them: the connection serves the one that is meant."""
    with connected(lab) as client:
        for _ in range(HASTY):
            client.leave(client.ask(), "reset")
        client.assert_served()
