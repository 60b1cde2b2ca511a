"""``kimi-mitm``: the command line."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import click

from kimi_core.cli.lazy import LazyGroup

# each with its module and what the list of commands says of it
COMMANDS = {
    "login": ("kimi_core.cli.login", "Log in to PROVIDER and print the lines that clients need."),
    "logout": ("kimi_core.cli.logout", "Remove a login of PROVIDER from this machine."),
    "status": ("kimi_core.cli.status", "Show the logins, their files, and whether a proxy is running."),
    "usage": ("kimi_core.cli.usage", "Show what is left of PROVIDER's plan, and when it comes back."),
    "models": ("kimi_core.cli.models", "Show the models of PROVIDER's plan."),
    "config": ("kimi_core.cli.config", "Print what CLIENT needs to know to use your plans."),
    "accounts": ("kimi_core.cli.accounts", "Look after Kiro's accounts."),
    "doctor": ("kimi_core.cli.doctor", "Find out what is wrong, and how to mend it."),
    "run": ("kimi_core.cli.run", "Run COMMAND with its requests going through the proxy."),
    "start": ("kimi_core.cli.start", "Start the proxy in the background."),
    "stop": ("kimi_core.cli.start", "Stop the proxy that `kimi-mitm start` has started."),
    "logs": ("kimi_core.cli.start", "Show what the proxy in the background says, or has said."),
    "service": ("kimi_core.cli.service", "Print a service that starts the proxy with the machine."),
    "completion": ("kimi_core.cli.completion", "Print what SHELL needs to complete commands and options."),
}


def _version() -> str:
    try:
        return version("kimi-mitm")
    except PackageNotFoundError:
        return "0 (a checkout that is not installed)"


# \b keeps click from joining the lines
EXIT_CODES = """\b
Exit codes:
  0    done
  1    failed
  2    wrong command line or configuration
  3    not logged in, or the login is dead
  125  run: there is no proxy for the command
  126  run: the command cannot be run
  127  run: there is no such command
  130  interrupted with Ctrl-C
Otherwise run has the exit code of its command, 128 + n where signal n ended it.
"""


@click.group(cls=LazyGroup, later=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(_version(), prog_name="kimi-mitm", message="%(prog)s %(version)s")
def main() -> None:
    """Use a Kimi Code plan and Kiro accounts with any client, through mitmproxy.

    The options of the addon are read from mitmproxy's configuration file, as are the upstream proxy
    (mode: upstream:…, upstream_auth) and the trusted CA (ssl_verify_upstream_trusted_ca) that a company's network
    may ask for. HTTPS_PROXY in the environment is not followed: in a client's shell it points back at this proxy.
    """
