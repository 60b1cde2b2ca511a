import json
import tempfile
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimi_core.cli.configuration import _NEIGHBOURS, Configuration, load
from kimi_core.errors import ConfigError
from kimi_core.outbound import Outbound
from kimi_core.settings import Settings


def configure(tmp_path, text="", *overrides, name="config.yaml"):
    """Write *text* as mitmproxy's configuration file and load it."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    return load(tmp_path, overrides)


def test_without_a_file_the_defaults_stand(tmp_path):
    """No configuration at all gives mitmproxy's and the addon's own defaults."""
    assert load(tmp_path / "none") == Configuration(Settings(), Outbound(), tmp_path / "none")


def test_options_of_the_addon_come_from_mitmproxys_file(tmp_path):
    """kimi_… options are read, and those that are none of ours are left alone."""
    text = """
        kimi_region: global
        kimi_keep_headers: [x-one, x-two]
        kimi_max_body: 3
        kimi_clamp_tokens: true
        scripts: [addons/kimi.py]
        showhost: true
        3: a key that is no text
    """
    settings = configure(tmp_path, text).settings
    assert settings.kimi_region == "global"
    assert settings.kimi_keep_headers == ["x-one", "x-two"]
    assert settings.kimi_max_body == 3
    assert settings.kimi_clamp_tokens


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_file_is_no_mistake(tmp_path, text):
    """A file without options is as good as none."""
    assert configure(tmp_path, text).settings == Settings()


def test_the_second_file_wins(tmp_path):
    """Both of mitmproxy's files are read, config.yaml and then config.yml."""
    configure(tmp_path, "kimi_region: global\nkimi_identity: own\n")
    settings = configure(tmp_path, "kimi_region: cn\n", name="config.yml").settings
    assert (settings.kimi_region, settings.kimi_identity) == ("cn", "own")


@pytest.mark.parametrize(
    ("overrides", "field", "value"),
    [
        (["kimi_region=global"], "kimi_region", "global"),
        (["kimi_region=cn", "kimi_region=global"], "kimi_region", "global"),
        (["kimi_max_body=12"], "kimi_max_body", 12),
        (["kimi_clamp_tokens"], "kimi_clamp_tokens", True),
        (["kimi_clamp_tokens=false"], "kimi_clamp_tokens", False),
        (["kimi_keep_headers=a", "kimi_keep_headers=b"], "kimi_keep_headers", ["a", "b"]),
        (["kimi_keep_headers"], "kimi_keep_headers", []),
        (["kimi_client_key=a=b"], "kimi_client_key", "a=b"),
    ],
)
def test_set_wins_over_the_file(tmp_path, overrides, field, value):
    """--set has mitmproxy's forms: name=value, a bare name for true, a list option given several times."""
    text = "kimi_region: cn\nkimi_max_body: 1\nkimi_clamp_tokens: true\nkimi_keep_headers: [z]\nkimi_client_key: old\n"
    assert getattr(configure(tmp_path, text, *overrides).settings, field) == value


@pytest.mark.parametrize(
    ("text", "overrides", "names"),
    [
        ("kimi_regoin: cn", (), "kimi_regoin"),
        ("kimi_region: mars", (), "kimi_region"),
        ("kimi_max_body: many", (), "kimi_max_body"),
        ("kimi_allow_clients: [10.0.0.0/99]", (), "kimi_allow_clients"),
        ("", ("kimi_regoin=cn",), "kimi_regoin"),
        ("", ("kmi_region=cn",), "kmi_region"),
        ("", ("=cn",), "means nothing"),
        ("", ("listen_port=high",), "listen_port"),
        ("", ("listen_port=\u0663",), "listen_port"),
        ("listen_port: 65536", (), "listen_port"),
        ("listen_port: -1", (), "listen_port"),
        ("listen_port: [1]", (), "listen_port"),
        ("listen_host: [a]", (), "listen_host must be text"),
        ("mode: regular", (), "mode must be a list of texts"),
        ("mode: [1]", (), "mode must be a list of texts"),
        ("mode: ['upstream:ftp://x']", (), "names no proxy"),
        ("mode: ['upstream:http://x:99999']", (), "names no proxy"),
        ("mode: ['upstream:http://[1::2::3]:1']", (), "names no proxy"),
        ("mode: ['upstream:']", (), "names no proxy"),
        ("mode: ['upstream:http://u:p@h:1']", (), "names no proxy"),
        ("mode: ['regular@high']", (), "must be a port"),
        ("mode: [unclosed", (), "no valid YAML at line"),
        ("kimi_region: \x00", (), "no valid YAML"),
        ("kimi_region: 2024-13-45", (), "no valid YAML"),
        ("kimi_region: !!int abc", (), "no valid YAML"),
        pytest.param("a: " + "[" * 5000, (), "no valid YAML", id="nested"),
        ("- a list", (), "must hold options"),
        ("just text", (), "must hold options"),
    ],
)
def test_what_makes_no_sense_is_named(tmp_path, text, overrides, names):
    """Every mistake is one sentence that names the option or the file."""
    with pytest.raises(ConfigError) as caught:
        configure(tmp_path, text, *overrides)
    assert names in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text(tmp_path):
    """Bytes that are no UTF-8 are a sentence, not a traceback."""
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


def test_a_folder_in_place_of_the_file(tmp_path):
    """A file that cannot be opened is a sentence."""
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "outbound"),
    [
        ("mode: ['upstream:http://proxy.corp:3128']", Outbound("http://proxy.corp:3128")),
        ("mode: ['upstream:https://proxy.corp']", Outbound("https://proxy.corp:443")),
        ("mode: ['upstream:proxy.corp']", Outbound("http://proxy.corp:80")),
        ("mode: ['upstream:http://[fd00::1]:3128/']", Outbound("http://[fd00::1]:3128")),
        ("mode: ['upstream:http://proxy.corp:3128@127.0.0.1:9000']", Outbound("http://proxy.corp:3128")),
        ("mode: [regular]", Outbound()),
        (
            "mode: ['upstream:http://p:1']\nupstream_auth: fake-user:fake-password",
            Outbound("http://p:1", "fake-user:fake-password"),
        ),
        ("upstream_auth: fake-user:fake-password", Outbound()),
        ("ssl_verify_upstream_trusted_ca: /etc/corp.pem", Outbound(ca_file="/etc/corp.pem")),
        ("ssl_verify_upstream_trusted_confdir: /etc/ca", Outbound(ca_dir="/etc/ca")),
        ("ssl_verify_upstream_trusted_ca: ~/corp.pem", Outbound(ca_file=str(Path("~/corp.pem").expanduser()))),
        ("ssl_verify_upstream_trusted_ca: null", Outbound()),
    ],
)
def test_calls_of_our_own_go_out_as_mitmproxys_do(tmp_path, text, outbound):
    """The upstream proxy, its password and the trusted CA are those of mitmproxy's own connections."""
    assert configure(tmp_path, text).outbound == outbound


@pytest.mark.parametrize(
    ("overrides", "url"),
    [
        ((), "http://127.0.0.1:8080"),
        (("listen_port=9090",), "http://127.0.0.1:9090"),
        (("listen_host=0.0.0.0",), "http://127.0.0.1:8080"),
        (("listen_host=::",), "http://127.0.0.1:8080"),
        (("listen_host=::1",), "http://[::1]:8080"),
        (("listen_host=box.lan",), "http://box.lan:8080"),
        (("mode=regular@9000", "listen_port=9090"), "http://127.0.0.1:9000"),
        (("mode=regular@10.0.0.7:9000",), "http://10.0.0.7:9000"),
        (("mode=regular@[::1]:9000",), "http://[::1]:9000"),
        (("mode=reverse:https://api.kimi.com@8787", "mode=regular"), "http://127.0.0.1:8080"),
        (("mode=reverse:https://api.kimi.com@8787",), "http://127.0.0.1:8080"),
        (("mode=upstream:http://p:1@8181",), "http://127.0.0.1:8181"),
        (("mode=@8181",), "http://127.0.0.1:8080"),
    ],
)
def test_where_clients_reach_the_proxy(tmp_path, overrides, url):
    """The first listener that is an HTTP proxy is the one to name; every address means the loopback one."""
    assert load(tmp_path, overrides).proxy_url == url


def test_another_folder(tmp_path):
    """Option confdir moves the configuration and the CA, as mitmproxy's own option does."""
    configure(tmp_path, "kimi_region: global")
    configuration = load(Path("/nowhere"), [f"confdir={tmp_path}"])
    assert configuration.settings.kimi_region == "global"
    assert configuration.ca_certificate == tmp_path / "mitmproxy-ca-cert.pem"


@pytest.mark.parametrize(
    "text",
    [
        "mode: ['upstream:http://user:fake-secret@proxy:1']",
        "mode: ['upstream:http://user:x@fake-secret']",
        "upstream_auth: [fake-secret]",
        "kimi_client_key: [fake-secret]",
        "upstream_auth: fake-secret\nkimi_client_key: {a: [",
    ],
)
def test_no_mistake_repeats_a_password(tmp_path, text):
    """Where a secret stands in the wrong place or shape, the sentence does not show it."""
    with pytest.raises(ConfigError) as caught:
        configure(tmp_path, text)
    assert "fake-secret" not in str(caught.value)
    assert "fake-secret" not in repr(caught.value.__cause__ if "YAML" not in str(caught.value) else None)


names = st.sampled_from([*_NEIGHBOURS, *Settings.model_fields, "showhost"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)
modes = st.from_regex(r"(upstream|regular|reverse)(:(http://)?[a-z\[\]:.0-9]{0,12})?(@[a-z:0-9]{0,8})?", fullmatch=True)


@settings(max_examples=100)
@given(st.dictionaries(names, scalars | st.lists(scalars, max_size=3) | st.lists(modes, min_size=1, max_size=2)))
def test_any_values_load_or_are_told(values):
    """Whatever stands in the file, it is a configuration whose HTTP client can be made, or one ConfigError."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.yaml").write_text(json.dumps(values), encoding="utf-8")
        try:
            found = load(Path(folder))
        except ConfigError:
            return
    assert httpx.URL(found.proxy_url).port in (found.port, None)
    assert found.outbound.proxy is None or httpx.Proxy(found.outbound.proxy)
