"""The wheel, the set-up script and the coverage floor: what stands between a clone and a running program."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BOOTSTRAP = ROOT / "scripts" / "bootstrap.sh"
SYSTEM = "/usr/bin:/bin"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the path of a wheel built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Return a folder with the wheel unpacked into it, as site-packages would have it."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run_python(folder, *arguments):
    """Run Python with the unpacked wheel ahead of the checkout, from a folder that is not the checkout."""
    environ = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


def files_of(package):
    """Return the modules of *package* in the checkout, and what the status page is made of."""
    found = [*(ROOT / package).rglob("*.py"), *(ROOT / package / "page" / "templates").iterdir()]
    found += (ROOT / package / "page" / "assets").iterdir()
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_wheel_holds_every_module_the_script_and_the_licence_and_nothing_else(wheel):
    """The wheel is the package, the script that mitmproxy loads, and its own records."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    records = {name for name in names if ".dist-info/" in name}
    assert names - records == files_of("kimi_core") | {"kimi_core/py.typed", "kimi_core/addons/kimi.py"}
    assert any(name.endswith("licenses/LICENSE") for name in records)


def test_wheel_declares_the_command_and_lower_bounds_only(wheel):
    """Whoever installs the wheel gets `kimi-mitm`, and no version of a dependency is forced from above."""
    with zipfile.ZipFile(wheel) as archive:
        records = {
            name.partition("/")[2]: archive.read(name).decode() for name in archive.namelist() if "-info/" in name
        }
    assert "kimi-mitm = kimi_core.cli.main:main" in records["entry_points.txt"]
    required = [line for line in records["METADATA"].splitlines() if line.startswith("Requires-Dist:")]
    assert required
    assert not [line for line in required if "<" in line or "==" in line]
    assert "Requires-Python: >=3.12" in records["METADATA"]


def test_installed_command_tells_its_version(installed):
    """`kimi-mitm --version` works from the wheel alone and names the version of pyproject.toml."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    done = run_python(installed, "-c", "from kimi_core.cli.main import main; main()", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert version in done.stdout


def test_installed_script_offers_the_addon(installed):
    """The script inside the wheel finds its own package and gives mitmproxy an addon."""
    code = (
        "import runpy, kimi_core; "
        "print(kimi_core.__file__); "
        "print(len(runpy.run_path('kimi_core/addons/kimi.py')['addons']))"
    )
    done = run_python(installed, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    where, count = done.stdout.split()
    assert Path(where).is_relative_to(installed)
    assert int(count) >= 1


@pytest.mark.parametrize("missing", ["mitmproxy", "httpx"])
def test_script_without_its_dependencies_says_so_in_one_line(missing):
    """Where something is not installed, one line names it and the Python that lacks it; there is no traceback."""
    code = f"import runpy, sys; sys.modules[{missing!r}] = None; print(runpy.run_path('addons/kimi.py')['addons'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n")
    assert done.stderr.startswith(f"kimi-mitm cannot start: {missing}")
    assert sys.executable in done.stderr
    assert done.stderr.count("\n") == 1


def bootstrap(tmp_path, *arguments, path=SYSTEM, **environ):
    """Run the set-up script of a checkout that holds nothing but it, in an environment that holds nothing else."""
    checkout = tmp_path / "checkout"
    (checkout / "scripts").mkdir(parents=True)
    shutil.copy(BOOTSTRAP, checkout / "scripts")
    environ = {"PATH": str(path), "HOME": str(tmp_path), **environ}
    return subprocess.run(
        ["/bin/sh", "scripts/bootstrap.sh", *arguments],
        cwd=checkout,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def tools(tmp_path):
    """Return a folder that has the commands the script needs, and no Python."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("dirname", "cat", "head", "cksum", "mkdir", "rm", "sleep"):
        (folder / name).symlink_to(shutil.which(name, path=SYSTEM))
    return folder


def add_command(folder, name, script):
    """Put a shell script of that name into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    command = folder / name
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)


def test_machine_without_python_is_told_so_in_one_sentence(tmp_path, tools):
    """Where no Python fits, one sentence says which is needed and how to get it, and nothing is left behind."""
    done = bootstrap(tmp_path, "run", path=tools)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("kimi-mitm needs Python 3.12 or newer")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "checkout").iterdir()) == ["scripts"]


def test_too_old_and_broken_pythons_are_passed_over(tmp_path, tools):
    """A shim that fails and a Python that is too old are not taken; the next one that fits is."""
    add_command(tools, "python3.13", 'echo "pyenv: python3.13: command not found" >&2; exit 127')
    add_command(tools, "python3.12", "exit 1")
    (tools / "python3.14").symlink_to(sys.executable)
    done = bootstrap(tmp_path, "python", path=tools)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).exists()


def test_python_that_pyenv_keeps_is_found(tmp_path, tools):
    """A Python that only pyenv's folder holds is found without pyenv on PATH."""
    add_command(tmp_path / ".pyenv" / "versions" / "3.12.1" / "bin", "python", f'exec "{sys.executable}" "$@"')
    done = bootstrap(tmp_path, "python", path=tools)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).samefile(sys.executable)


def test_named_python_comes_first(tmp_path, tools):
    """$PYTHON is preferred to whatever else fits."""
    add_command(tools, "python3.13", "exit 1")
    done = bootstrap(tmp_path, "python", path=tools, PYTHON=sys.executable)
    assert Path(done.stdout.strip()).samefile(sys.executable)


def test_python_without_venv_is_told_apart(tmp_path, tools):
    """A Python that is new enough but cannot make environments gets a sentence of its own."""
    add_command(tools, "python3", f'case "$*" in *ensurepip*) exit 1;; esac; exec "{sys.executable}" "$@"')
    done = bootstrap(tmp_path, "python", path=tools)
    assert done.returncode == 1
    assert "python3 is new enough but cannot make virtual environments" in done.stderr
    assert done.stderr.count("\n") == 1


def test_finished_environment_is_left_alone(tmp_path, tools):
    """The second `make run` does nothing: the stamp of the same place and the same pyproject.toml is enough."""
    shutil.copytree(ROOT / "scripts", tmp_path / "checkout" / "scripts")
    checkout = tmp_path / "checkout"
    shutil.copy(ROOT / "pyproject.toml", checkout)
    add_command(checkout / ".venv" / "bin", "python", "exit 1")
    sums = subprocess.run("pwd; cksum <pyproject.toml", shell=True, cwd=checkout, capture_output=True, check=True)
    (checkout / ".venv" / ".made-dev").write_bytes(sums.stdout)

    def set_up():
        return subprocess.run(
            ["/bin/sh", "scripts/bootstrap.sh", "run"],
            cwd=checkout,
            env={"PATH": str(tools)},
            capture_output=True,
            check=False,
        )

    done = set_up()
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    (checkout / "pyproject.toml").write_text("changed")
    assert set_up().returncode == 1


def test_unknown_word_is_refused(tmp_path, tools):
    """The script says how it is used."""
    done = bootstrap(tmp_path, "everything", path=tools)
    assert (done.returncode, done.stderr) == (2, "usage: scripts/bootstrap.sh run | dev | python\n")


@pytest.fixture
def floor(monkeypatch):
    """Return the script that watches over coverage, as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import coverage_floor

    return coverage_floor


@pytest.mark.parametrize(
    ("taken", "total", "least", "before", "good", "says"),
    [
        (96, 100, 95, 95, True, "96.0 %"),
        (95, 100, 95, 0, True, "the floor is 95 %"),
        (0, 0, 95, 95, True, "raise fail_under"),
        (98, 100, 95, 95, True, "raise fail_under"),
        (94, 100, 95, 95, False, "below the floor"),
        (99, 100, 94, 95, False, "only rises"),
    ],
)
def test_coverage_floor_holds_and_only_rises(floor, taken, total, least, before, good, says):
    """Fewer branches than the floor fail, and so does a floor that was lowered."""
    held, said = floor.verdict(taken, total, least, before)
    assert held is good
    assert says in " ".join(said)


def test_highest_floor_is_read_from_history(floor, tmp_path):
    """A floor that was lowered in a later commit is still known."""

    def git(*arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.invalid"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    for percent in (95, 97, 96):
        (tmp_path / "pyproject.toml").write_text(f"[tool.coverage.report]\nfail_under = {percent}\n")
        git("add", "pyproject.toml")
        git("commit", "-q", "-m", str(percent))
    assert floor.highest_floor_before(tmp_path) == 97


def test_no_history_means_no_earlier_floor(floor, tmp_path):
    """A folder that is no git repository has no earlier floor."""
    assert floor.highest_floor_before(tmp_path) == 0


def test_no_lock_file_is_kept():
    """No lock file, which would carry download addresses, is part of the repository."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in listed if Path(name).name in {"uv.lock", "poetry.lock", "package-lock.json"}]
