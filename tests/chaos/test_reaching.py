"""Services that cannot be reached, or are not who they say: nothing is sent to them, and the client is told."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from tests.chaos.lab import GOOD, HOSTS, KINDS, PROVIDERS, Outcome, read
from tests.chaos.raw import RawServer
from tests.e2e.kiro_harness import KiroProxy, KiroWorld

NOWHERE = "https://service.invalid"


def of_another_ca(lab, host):
    """Return a server of the right name that nobody vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(host).configure_cert(context)
    return context


def no_tls(lab, host):
    """Return nothing: a server that knows no TLS."""


PRETENDERS = {
    "another CA": of_another_ca,
    "another name": lambda lab, host: lab.certificate("other.example"),
    "run out": lambda lab, host: lab.certificate(host, not_after=datetime.now(UTC) - timedelta(days=1)),
    "not begun": lambda lab, host: lab.certificate(host, not_before=datetime.now(UTC) + timedelta(days=1)),
    "no TLS": no_tls,
}


@pytest.mark.parametrize("name", PRETENDERS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_service_that_is_not_who_it_says_gets_nothing(lab, provider, name):
    """No certificate for the name, no request: and the client reads that the service cannot be reached."""
    context = PRETENDERS[name](lab, HOSTS[provider][0])
    with lab.server(provider, context).run(lab.world.background) as pretender:
        lab.lead(provider, pretender)
        outcome = lab.ask(provider)
        assert outcome.status == 502, outcome
        assert outcome.error["message"]
        assert pretender.served == 0


@pytest.fixture(scope="module")
def astray(background, ca, confdir, tmp_path_factory):
    """Run a proxy whose Kimi has an IPv6 address alone, and whose Kiro a name that leads nowhere."""
    folder = tmp_path_factory.mktemp("astray")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("::1").configure_cert(context)
    with (
        RawServer(context, KINDS["kimi"], GOOD["kimi"], host="::1").run(background) as server,
        KiroWorld(background, ca, folder) as world,
    ):
        environ = dict.fromkeys(("KIRO_RUNTIME_URL", "KIRO_Q_URL", "KIRO_MANAGEMENT_URL"), NOWHERE)
        environ |= {
            "KIMI_CODE_BASE_URL": f"https://[::1]:{server.port}/coding/v1",
            "RES_OPTIONS": "attempts:1 timeout:1",
        }
        proxy = KiroProxy(world, folder / "proxy", confdir, named=False, environ=environ)
        proxy.login()
        proxy.add_key("fake-kiro-api-key-1")
        with proxy:
            yield proxy


def ask(proxy, provider, model) -> Outcome:
    """Ask the proxy itself."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "a question"}]}
    with (
        proxy.local_client() as client,
        client.stream("POST", f"{proxy.url}/{provider}/v1/chat/completions", json=body) as answer,
    ):
        return read(answer)


def test_a_service_with_an_ipv6_address_alone_is_served(astray):
    """The address stands in brackets wherever it is a host."""
    outcome = ask(astray, "kimi", "kimi-for-coding")
    assert outcome.complete, outcome
    assert outcome.text == "good"


def test_a_name_that_leads_nowhere_is_an_error(astray):
    """The client is told that the service cannot be reached, and others are served meanwhile."""
    outcome = ask(astray, "kiro", "claude-sonnet-4.5")
    assert outcome.status in {502, 503}, outcome
    assert outcome.error["message"]
    assert ask(astray, "kimi", "kimi-for-coding").complete
