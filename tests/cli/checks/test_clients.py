import pytest

from kimi_core.cli.checks.clients import Client, Runtime, client
from kimi_core.cli.checks.table import judge_client


@pytest.mark.parametrize(
    ("command", "name", "runtime"),
    [
        ("opencode", "opencode", Runtime.node),
        ("/usr/local/bin/claude --print", "claude", Runtime.node),
        ("curl.exe", "curl.exe", Runtime.curl),
        ("python", "python", Runtime.python),
        ("requests", "requests", Runtime.requests),
        ("something-else", "something-else", None),
    ],
)
def test_known_names(command, name, runtime):
    """A client is known by its name, with or without a path and arguments."""
    found = client(command, lambda _: None)
    assert (found.name, found.runtime) == (name, runtime)


@pytest.mark.parametrize(
    ("first", "runtime"),
    [
        ("#!/usr/bin/env node\n", Runtime.node),
        ("#!/opt/venv/bin/python3\n", Runtime.python),
        ("#!/bin/sh\n", None),
        ("no script", None),
    ],
)
def test_scripts_name_their_runtime(tmp_path, first, runtime):
    """The first line of an unknown client says what it is written in."""
    path = tmp_path / "agent"
    path.write_text(first)
    assert client("agent", lambda _: str(path)).runtime is runtime


def test_a_program_that_cannot_be_read(tmp_path):
    """What cannot be read says nothing."""
    assert client("agent", lambda _: str(tmp_path)).runtime is None


def test_words_that_are_no_command():
    """An empty name is a client that is not there."""
    assert client("", lambda _: None).path is None
    assert client("it's", lambda _: None).name == "it's"


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (Client("curl", Runtime.curl, "/usr/bin/curl"), "ok"),
        (Client("python", Runtime.python), "ok"),
        (Client("opencode", Runtime.node), "problem"),
        (Client("agent", None, "/bin/agent"), "warning"),
    ],
)
def test_what_is_said_of_a_client(found, state):
    """A program that is not there is a problem, one of an unknown kind a warning."""
    assert judge_client(found).state == state


def test_no_client_was_named(cli, find):
    """Without --client there is no client to look for."""
    assert find(cli, "client.command")["state"] == "skipped"
    assert find(cli, "client.command", "--client", "no-such-program")["state"] == "problem"
