from collections.abc import Sequence

import pytest
from mitmproxy import exceptions
from mitmproxy.addonmanager import Loader
from mitmproxy.addons.upstream_auth import UpstreamAuth
from mitmproxy.test import taddons

from kimi_core.outbound import Outbound
from kimi_core.proxy import options
from kimi_core.settings import Settings


@pytest.fixture
def context():
    """A mitmproxy with the options declared."""
    with taddons.context(UpstreamAuth(), loadcore=True) as tctx:
        options.declare(Loader(tctx.master))
        yield tctx


@pytest.mark.parametrize("name", options.NAMES)
def test_every_setting_is_an_option(context, name):
    """Each setting is declared with its default, a type that mitmproxy can parse, and a help text."""
    option = context.options._options[name]
    assert option.typespec in {str, int, bool, Sequence[str]}
    assert option.default == Settings.model_fields[name].get_default()
    assert option.help == Settings.model_fields[name].description
    assert option.help.endswith(".")


def test_defaults_read_back(context):
    """Untouched options give the default settings."""
    assert options.read(context.options) == Settings()


def test_given_values_read_back(context):
    """Options given as text, as on a command line, become settings."""
    context.options.set(
        "kimi_region=global",
        "kimi_max_body=3",
        "kimi_keep_own_key=true",
        "kimi_allow_clients=10.0.0.0/8",
        "kimi_allow_clients=fd00::/8",
    )
    settings = options.read(context.options)
    assert (settings.kimi_region, settings.kimi_max_body, settings.kimi_keep_own_key) == ("global", 3, True)
    assert settings.kimi_allow_clients == ["10.0.0.0/8", "fd00::/8"]
    assert [str(network) for network in settings.networks()] == ["10.0.0.0/8", "fd00::/8"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("kimi_max_body=0", "kimi_max_body"),
        ("kimi_allow_clients=everyone", "kimi_allow_clients"),
        ("kimi_identity=curl", "kimi_identity"),
    ],
)
def test_nonsense_is_refused_by_name(context, given, said):
    """A value that makes no sense is an OptionsError that names the option."""
    context.options.set(given)
    with pytest.raises(exceptions.OptionsError, match=said):
        options.read(context.options)


@pytest.mark.parametrize(
    ("mode", "proxy"),
    [
        (["regular"], None),
        (["upstream:http://proxy:3128"], "http://proxy:3128"),
        (["regular", "upstream:https://proxy:3128@127.0.0.1:8080"], "https://proxy:3128"),
        (["upstream:proxy:3128"], "http://proxy:3128"),
    ],
)
def test_our_own_calls_take_the_same_way_out(context, mode, proxy):
    """OAuth and information calls go through the upstream proxy and trust the CA that mitmproxy's own legs do."""
    context.options.mode = mode
    context.options.ssl_verify_upstream_trusted_ca = "/ca.pem"
    found = options.outbound(context.options)
    assert found == Outbound(proxy=proxy, proxy_auth=None, ca_file="/ca.pem", ca_dir=None)
