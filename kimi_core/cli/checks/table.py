"""Every check, in the order in which they are told: what stands first is most often what is wrong."""

from __future__ import annotations

from kimi_core.cli.checks import (
    authority,
    config,
    login,
    mitmproxy,
    opencode,
    proxy,
    service,
    speed,
    storage,
    trust,
    variables,
)
from kimi_core.cli.checks.check import AnyCheck, Check, Finding, NothingToJudge, ok, problem, warning
from kimi_core.cli.checks.clients import Client
from kimi_core.cli.checks.machine import Machine


def _gather_client(machine: Machine) -> Client:
    if machine.client is None:
        raise NothingToJudge("No client was named with --client.")
    return machine.client


def judge_client(client: Client) -> Finding:
    """Judge whether the client that was named is there, and whether it is known what it is written in."""
    if client.path is None and not client.kind:
        return problem(f"There is no program {client.name} on PATH.", "Install it, or name it as it is started.")
    if client.runtime is None:
        return warning(
            f"It is not known what {client.name} is written in: all kinds of clients are looked at.",
            "kimi-mitm doctor --client node (or python, requests, curl) asks about one kind",
        )
    return ok(f"{client.name} is looked at as a client of the kind {client.runtime}.")


CHECKS: tuple[AnyCheck, ...] = (
    *config.CHECKS,
    *login.CHECKS,
    *service.CHECKS,
    *proxy.CHECKS,
    *speed.CHECKS,
    *mitmproxy.CHECKS,
    *variables.CHECKS,
    *authority.CHECKS,
    Check("client.command", "The client that was named", _gather_client, judge_client),
    *trust.CHECKS,
    *opencode.CHECKS,
    *storage.CHECKS,
)
