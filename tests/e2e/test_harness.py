"""The harness against a plain mitmdump: what it says about the addon means something only if this holds."""

import pytest

from tests.e2e.harness import FOREIGN
from tests.servers.script import chat_script

BODY = {"model": "kimi-for-coding", "stream": True, "messages": [{"role": "user", "content": "[[say hello]]"}]}


@pytest.fixture(scope="module", params=[True, False], ids=["named", "direct"])
def plain(request, start_module_proxy):
    """Return a mitmdump without the addon."""
    return start_module_proxy(named=request.param, scripts=(), login=False, faults_expected=True)


@pytest.mark.parametrize("alpn", ["http/1.1", "h2"])
def test_a_plain_mitmdump_leads_to_the_fake_over_tls(world, plain, alpn):
    """A client's own token reaches the fake; both sides speak TLS and the chosen protocol."""
    token = world.kimi.oauth.login()["access_token"]
    with plain.client(alpn) as client:
        world.kimi.queue(chat_script("hello"))
        answer = client.post("chat/completions", json=BODY, headers={"Authorization": f"Bearer {token}"})
    assert answer.http_version == ("HTTP/2" if alpn == "h2" else "HTTP/1.1")
    assert answer.text.endswith("data: [DONE]\n\n")
    assert world.kimi.of("chat")[0].bearer == token
    for path in (plain.log_file, plain.flow_file):
        assert token in plain.secrets_in(path.read_bytes()), "what the harness looks for, it finds"
    with pytest.raises(AssertionError, match="secrets"):
        plain.assert_clean()


def test_names_are_led_through_the_upstream_proxy(world, plain):
    """The named world sees the real host names, the direct one no CONNECT at all."""
    with plain.client() as client:
        client.get("models")
    assert [connect.target for connect in world.upstream.connects] == (["api.kimi.com:443"] if plain.named else [])
    if plain.named:
        with plain.client() as client:
            client.get(f"https://{FOREIGN}/coding/v1/models")
        assert world.foreign.of("models")
