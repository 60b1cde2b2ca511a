"""A flow that is sent again, by a key press or from a file: it begins where its client began, with today's login.

What the flow shows is what went to the service the last time. As long as its user has changed nothing in it, it is
served from what its client sent; a changed one is taken as it stands. Labels are never sent as if they were logins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mitmproxy import http

from kimi_core.errors import Refused
from kimi_core.exchange import Provider, RequestHead, Route
from kimi_core.kimi.constants import OWN_KEY_LABEL
from kimi_core.proxy import native, replay, sides, takeover
from kimi_core.proxy.control import ExchangeControl

LABELS = frozenset({native.LABEL, OWN_KEY_LABEL})


class LoginNotKept(Refused):
    """A flow is sent again that went out with a login of its client's own."""

    code = "login_not_kept"
    status = 401
    hint = "Have the client send it again."


@dataclass(frozen=True, slots=True)
class Original:
    """What a client sent, and where it belongs."""

    provider: Provider
    route: Route
    head: RequestHead
    body: bytes = field(repr=False)


def original(flow: http.HTTPFlow, head: RequestHead, providers: Sequence[Provider]) -> Original | None:
    """Return what the client of *flow* sent; None where it is not there as a whole, or the user has changed the flow.

    *head* is the flow's own: a flow that shows where it went is served there again.
    """
    kept = sides.request_of(flow)
    provider = next((each for each in providers if kept and each.name == kept.provider), None)
    if kept is None or provider is None or not kept.whole or not sides.untouched(flow):
        return None
    head = replace(head, method=kept.method, headers=kept.headers)
    route = provider.route(head, local=False)
    if route is None:  # it went out in a form that is the service's own
        head = takeover.local_head(head, provider)
        route = provider.route(head, local=True)
    if route is None or route.operation != kept.operation:
        return None
    return Original(provider, route, head, kept.body)


def logins(flow: http.HTTPFlow, head: RequestHead) -> Mapping[str, str]:
    """Return the client's own logins by name of field, where the flow shows a label for one.

    They are known as long as this process remembers the flow, and for the place that they went to alone. Raises
    LoginNotKept.
    """
    labelled = [name for name, value in head.headers if value in LABELS]
    if not labelled:
        return {}
    known = _known(replay.control_of(flow), (head.scheme, head.host, head.port))
    found = {name: known[name.lower()] for name in labelled if name.lower() in known}
    if len(found) < len(labelled):
        raise LoginNotKept("This request went out with its client's own login, which is not kept.")
    return found


def with_logins(head: RequestHead, found: Mapping[str, str]) -> RequestHead:
    """Return *head* with the client's own logins in place of the labels."""
    return replace(head, headers=head.headers.plus(*found.items()))


def _known(control: replay.Control | None, origin: tuple[str, str, int]) -> dict[str, str]:
    match control:
        case native.NativeControl() if control.origin == origin:
            return {name.lower(): value for name, value in control.logins.items()}
        case ExchangeControl():
            attempt = control.exchange.attempt
            if (attempt.scheme, attempt.host, attempt.port) == origin:
                return {name.lower(): value for name, value in attempt.secrets.items()}
    return {}
