"""A file of flows that came from somebody else, loaded and sent again, takes no login anywhere."""

import io

import pytest
from mitmproxy import connection
from mitmproxy.io import FlowReader, FlowWriter

from kimi_core.headers import Headers
from kimi_core.kimi.constants import LABEL, OWN_KEY_LABEL
from kimi_core.proxy import fields, native, replay, sides
from kimi_core.proxy.control import ExchangeControl
from tests.abuse.flows import error, flow
from tests.proxy.stand_ins import SECRET, FakeExchange, FakeProvider

EVIL = "evil.test"


def loaded(made):
    """Return *made* as another program gets it from a file, about to be sent again."""
    file = io.BytesIO()
    FlowWriter(file).add(made)
    file.seek(0)
    (found,) = FlowReader(file).stream()
    found.is_replay, found.live = "request", True
    found.response = found.error = None
    return found


def claimed(made, **changes):
    """Give *made* the memory of a client's request that it never was."""
    kept = {
        "provider": "fake", "operation": "chat", "method": "POST", "url": f"https://{EVIL}/",
        "headers": [["authorization", SECRET]], "body": b"theirs", "length": 6,
    }  # fmt: skip
    made.metadata[sides.SIDES] = {"request": kept | changes}
    sides.sign(made)
    return made


@pytest.fixture
def addon(world):
    """The addon with a login, and a provider that would serve."""
    _, made = world
    made.reception.providers = (FakeProvider(FakeExchange()),)
    return made


@pytest.mark.parametrize("label", [LABEL, OWN_KEY_LABEL, native.LABEL, "Bearer [kiro me]"])
@pytest.mark.parametrize("host", [EVIL, "api.kimi.com.evil.test", "api.kimi.com."])
async def test_a_label_in_a_file_brings_no_login_elsewhere(addon, host, label):
    """A flow that leads elsewhere and shows a label gets nothing in its place."""
    made = loaded(flow(host=host, headers=[("Authorization", label)]))
    await addon.requestheaders(made)
    assert replay.control_of(made) is None or made.response is not None
    assert "fake-access" not in str(made.get_state())


async def test_a_file_that_claims_to_be_a_client_leads_to_the_service_alone(addon):
    """What a file says of its client may be served again, at the service's own host and nowhere else."""
    made = loaded(claimed(flow(host=EVIL)))
    await addon.requestheaders(made)
    control = replay.control_of(made)
    assert isinstance(control, ExchangeControl)
    assert (made.request.host, made.request.port, made.request.scheme) == ("api.kimi.com", 443, "https")
    server = connection.Server(address=(EVIL, 443))
    assert control.permit(made, server) is not None, "a connection that leads elsewhere gets no secret"
    assert SECRET not in str(made.get_state())


@pytest.mark.parametrize(
    "changes",
    [
        {"provider": 7}, {"provider": "nobody"}, {"headers": 7}, {"headers": [["a"]]}, {"headers": [[b"a", None]]},
        {"body": 7}, {"body": None, "length": -1}, {"length": "9" * 5000}, {"length": float("inf")}, {"method": None},
        {"operation": "../x"}, {"url": 7},
    ],
    ids=str,
)  # fmt: skip
async def test_any_memory_in_a_file_is_read_or_ignored(addon, changes):
    """A file may hold anything where we keep what clients sent."""
    made = loaded(claimed(flow(), **changes))
    await addon.requestheaders(made)
    await addon.request(made)
    assert "fake-access" not in str(made.get_state())


@pytest.mark.parametrize("kept", [7, [], {"request": 7}, {"request": {}}, {"answer": {"body": 7}}, {"cut": "x"}])
def test_any_shape_of_memory_is_none(kept):
    """What is of another shape counts as nothing kept."""
    made = flow()
    made.metadata[sides.SIDES] = kept
    assert sides.request_of(made) is None
    assert sides.answer_of(made) is None
    assert sides.full_length(made) is None
    assert not sides.untouched(made)


async def test_an_address_in_a_file_opens_no_door(addon):
    """That a file calls its request local, on a port of its own, changes nothing of where the login may go."""
    made = flow("/kimi/v1/chat/completions", EVIL, 9, "http")
    made.client_conn.sockname = ("127.0.0.1", 9)
    made = loaded(made)
    await addon.requestheaders(made)
    assert error(made)["code"] == "foreign_host"


def test_a_copy_of_a_flow_has_no_login_of_its_own():
    """What is remembered of a client's own login is in no file and in no copy."""
    made = flow(headers=[("Authorization", "Bearer fake-native")])
    replay.attach(made, native.NativeControl(made, 0))
    assert replay.control_of(loaded(made)) is None
    assert "fake-native" not in str(loaded(made).get_state())
    assert fields.headers_of(made.request) != Headers()
