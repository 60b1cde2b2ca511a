"""The container file does what it says: its sources exist, its command starts, and others are turned away."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

from kimi_core import detached
from kimi_core.kimi import refresher as kimi_refresher
from kimi_core.kiro import refresher as kiro_refresher
from kimi_core.proxy import hosted
from kimi_core.proxy.key import FILE
from tests.e2e.harness import environment, free_port, wait_until
from tests.e2e.test_guard import own_addresses

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "container"
PREFIX = "/opt/kimi-mitm"
CHAT = {"model": "kimi-for-coding", "messages": [{"role": "user", "content": "Hello"}]}
NETWORK = "198.51.100.250/32"  # for documentation (RFC 5737): nobody is there


def instructions():
    """Return the container file's instructions in order: the word, and the rest of the joined lines."""
    text = re.sub(r"^#.*\n", "", (FOLDER / "Containerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def only(word):
    """Return what stands behind the one instruction of that name."""
    (rest,) = [rest for name, rest in instructions() if name == word]
    return rest


def copied():
    """Return the sources that are copied from the checkout."""
    words = [shlex.split(rest) for name, rest in instructions() if name == "COPY"]
    return [source for each in words if not each[0].startswith("--from") for source in each[:-1]]


def sent(name):
    """Return the paths that an ignore file lets through, comments left out."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    return [line.removeprefix("!") for line in lines if line.startswith("!")]


@pytest.fixture(scope="module")
def health():
    """The functions of the script that the health check runs."""
    return runpy.run_path(str(FOLDER / "healthcheck.py"))


@pytest.fixture(scope="module")
def container(tmp_path_factory):
    """Start what the image starts, published as compose.yaml publishes it, with paths of this machine."""
    home = tmp_path_factory.mktemp("data")
    port = free_port()
    entry = json.loads(only("ENTRYPOINT"))
    here = {
        "python": sys.executable,
        "mitmdump": str(Path(sys.executable).with_name("mitmdump")),
        f"{PREFIX}/init.py": str(FOLDER / "init.py"),
        f"{PREFIX}/kimi.py": str(ROOT / "addons" / "kimi.py"),
    }
    words = [here.get(word, word) for word in entry]
    assert not any(PREFIX in word for word in words)
    own = compose()["command"]
    own = [*own[:-1], f"kimi_allow_clients={NETWORK}", "-p", str(port)]
    environ = environment(home, {"KIMI_MITM_DATA_DIR": str(home / "logins")})
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [*words, *own], env=environ, cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(process, url), "the start")
        yield home, port
    finally:
        process.terminate()
        assert process.wait(20) == 0


def answers(process, url):
    """Tell whether the proxy answers."""
    assert process.poll() is None
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def compose():
    """Return the service of the compose file."""
    return YAML(typ="safe").load((FOLDER / "compose.yaml").read_text())["services"]["proxy"]


# --- the files --------------------------------------------------------------------------------------------------------


def test_everything_that_is_copied_exists_and_is_sent():
    """Each source is a file of the checkout, and the ignore files let through these and no other."""
    assert all((ROOT / source).exists() for source in copied())
    for name in (".containerignore", ".dockerignore"):
        let_through = sent(name)
        assert {source for source in copied() if source != "addons/kimi.py"} == set(let_through)
        assert not any(word in path for path in let_through for word in ("*", "cache", "git", "data"))


def test_the_package_can_be_built_from_what_is_copied(tmp_path):
    """The build stage lacks nothing: a wheel comes of it."""
    for source in copied():
        target = tmp_path / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / source, target)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert list((tmp_path / "dist").glob("*.whl"))


def test_it_runs_as_nobody_special_and_keeps_its_data_in_the_volume():
    """The user is a number, set after the last step that needs root; home and logins are in the volume."""
    words = [word for word, _ in instructions()]
    assert int(only("USER")) > 0
    assert words.index("USER") > max(index for index, word in enumerate(words) if word == "RUN")
    volume = only("VOLUME")
    variables = dict(pair.split("=", 1) for pair in shlex.split(only("ENV")))
    assert variables["HOME"] == volume == only("WORKDIR" if words.count("WORKDIR") == 1 else "VOLUME")
    assert variables["KIMI_MITM_DATA_DIR"].startswith(f"{volume}/")
    assert variables["PATH"].startswith(f"{PREFIX}/bin:")


def test_no_secret_is_in_a_layer():
    """Nothing is asked for at build time, and no variable holds a credential."""
    assert not [word for word, _ in instructions() if word in ("ARG", "ADD")]
    assert not re.search(r"key|token|secret|password", only("ENV"), re.IGNORECASE)


def test_no_registry_is_named_and_nothing_but_python_is_needed():
    """Base images are names without a host; the health check needs no curl."""
    bases = {rest.split()[0] for word, rest in instructions() if word == "FROM"}
    assert all(re.fullmatch(r"python:3\.\d+-slim", base) for base in bases)
    assert "curl" not in (FOLDER / "Containerfile").read_text()
    command = only("HEALTHCHECK").partition("CMD ")[2]
    assert json.loads(command) == ["python", f"{PREFIX}/healthcheck.py"]


def test_the_port_is_published_to_this_machine_alone():
    """compose.yaml binds it to 127.0.0.1, with the same number inside, and lets in its own network only."""
    service = compose()
    (published,) = service["ports"]
    assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", published)
    assert published.endswith(f":{only('EXPOSE')}")
    networks = YAML(typ="safe").load((FOLDER / "compose.yaml").read_text())["networks"]
    subnet = networks["proxy"]["ipam"]["config"][0]["subnet"]
    assert service["command"][-1] == f"kimi_allow_clients={subnet}"
    assert service["volumes"] == [f"data:{only('VOLUME')}"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert (FOLDER / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).is_file()


# --- what it starts ---------------------------------------------------------------------------------------------------


def test_what_it_starts_answers_and_makes_its_files(container, health):
    """The entry point starts; the health check says so; key and CA lie in the home folder, for its owner alone."""
    home, port = container
    assert health["healthy"](port)
    assert not health["healthy"](free_port())
    key = home / "logins" / FILE
    assert key.stat().st_mode & 0o077 == 0
    assert (home / ".mitmproxy" / "mitmproxy-ca-cert.pem").is_file()


def test_without_the_key_nobody_is_served(container):
    """An address tells nothing behind a published port, so this machine needs the key as well."""
    home, port = container
    url = f"http://127.0.0.1:{port}/kimi/v1/chat/completions"
    key = json.loads((home / "logins" / FILE).read_text())["key"]
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = httpx.post(url, json=CHAT, headers=headers, trust_env=False)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "client_key")
    answer = httpx.post(url, json=CHAT, headers={"Authorization": f"Bearer {key}"}, trust_env=False)
    assert answer.json()["error"]["code"] == "not_logged_in"


@pytest.mark.skipif(sys.platform != "linux", reason="reads this machine's addresses as Linux has them")
def test_other_networks_are_turned_away_with_the_key(container):
    """A peer whose network is not allowed gets no answer at all, whatever it knows."""
    home, port = container
    addresses = own_addresses()
    if not addresses:
        pytest.skip("this machine has no address but loopback")
    key = json.loads((home / "logins" / FILE).read_text())["key"]
    # in a process of its own: this one may connect to loopback only
    words = ["curl", "-s", "-m", "20", "--noproxy", "*", "-o", os.devnull, "-w", "%{http_code}"]
    words += ["-H", f"Authorization: Bearer {key}", f"http://{addresses[0]}:{port}/kimi/v1/models"]
    assert subprocess.run(words, capture_output=True, text=True, check=False).stdout == "000"


SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER (prctl(2)): orphans come to this process, as they come to the first one
AS_FIRST = f"import ctypes, os, sys; ctypes.CDLL(None).prctl({SUBREAPER}, 1); os.execv(sys.argv[1], sys.argv[1:])"
linux = pytest.mark.skipif(sys.platform != "linux", reason="orphans are led as Linux does it")


def as_first(script):
    """Start a shell script below the image's first process."""
    words = [sys.executable, "-c", AS_FIRST, sys.executable, str(FOLDER / "init.py"), "sh", "-c", script]
    return subprocess.Popen(words)


@linux
def test_the_first_process_waits_for_those_that_outlive_the_command(tmp_path):
    """What the command has left behind is not cut, and the exit code is the command's."""
    process = as_first(f"(while ! [ -e {tmp_path}/go ]; do sleep 0.05; done; touch {tmp_path}/done) & exit 7")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    (tmp_path / "go").touch()
    assert process.wait(10) == 7
    assert (tmp_path / "done").exists()


@linux
def test_the_first_process_passes_signals_on(tmp_path):
    """The command is told to end, and may end in its own way."""
    process = as_first(f"trap 'exit 9' TERM; touch {tmp_path}/ready; while :; do sleep 0.05; done")
    wait_until((tmp_path / "ready").exists, "the command's start")
    process.terminate()
    assert process.wait(10) == 9


@linux
@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -9 $$", 137)])
def test_the_first_process_ends_as_the_command_did(script, code):
    """Scripts see the command's own exit code, or 128 and the signal."""
    assert as_first(script).wait(10) == code


@linux
def test_the_first_process_waits_no_longer_than_it_says(tmp_path):
    """What never ends does not keep a container."""
    late = f"import runpy, sys; sys.exit(runpy.run_path({str(FOLDER / 'init.py')!r})['run'](sys.argv[1:], 1))"
    script = f"(while ! [ -e {tmp_path}/go ]; do sleep 0.05; done) & exit 0"
    words = [sys.executable, "-c", AS_FIRST, sys.executable, "-c", late, "sh", "-c", script]
    assert subprocess.run(words, timeout=20, check=False).returncode == 0
    (tmp_path / "go").touch()


def test_a_renewal_is_given_the_time_that_it_may_take():
    """The first process waits longer than one lives, and the engine longer than both that and the proxy's own end."""
    patience = runpy.run_path(str(FOLDER / "init.py"))["PATIENCE"]
    assert patience > max(module.LIFETIME for module in (kimi_refresher, kiro_refresher))
    grace = re.fullmatch(r"(\d+)s", compose()["stop_grace_period"])[1]
    assert int(grace) >= patience + hosted.ENDING
    pages = (ROOT / "docs" / "headless.md").read_text()
    assert set(re.findall(r"--stop-timeout (\d+)", pages)) == {grace}


def test_what_may_outlive_the_patience_is_told():
    """A renewed login that cannot be written is kept for longer than a container is given: the page says what to do."""
    assert runpy.run_path(str(FOLDER / "init.py"))["PATIENCE"] < detached.AFTERLIFE
    pages = " ".join((ROOT / "docs" / "headless.md").read_text().split())
    _, _, told = pages.partition("- **`--stop-timeout")
    assert "see to the disk before you stop the container" in told.partition(" - ")[0]


@pytest.mark.parametrize(
    ("words", "port"),
    [
        ("mitmdump -s /x/kimi.py --set a=b", 8080),
        ("mitmdump -p 9090", 9090),
        ("mitmdump --listen-port 9090 --set x=y", 9090),
        ("tini -- mitmdump --listen-port=9090", 9090),
        ("mitmdump -p 1 -p 2", 2),
        ("mitmdump -p9090 -q", 9090),
        ("mitmdump --set listen_port=9090", 9090),
        ("mitmdump --set web_port=9090 -w p9091", 8080),
        ("mitmdump -p", 8080),
        ("python init.py mitmdump -p 9090", 9090),
        ("", 8080),
    ],
)
def test_the_health_check_knows_the_port(health, words, port):
    """It is the one on the command line of the container's first process."""
    assert health["port_of"](words.split(" ")) == port
