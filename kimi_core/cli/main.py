"""``kimi-mitm``: the command line."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import click

from kimi_core.cli.accounts import accounts
from kimi_core.cli.completion import completion
from kimi_core.cli.config import config
from kimi_core.cli.doctor import doctor
from kimi_core.cli.login import login
from kimi_core.cli.logout import logout
from kimi_core.cli.models import models
from kimi_core.cli.run import run
from kimi_core.cli.service import service
from kimi_core.cli.start import logs, start, stop
from kimi_core.cli.status import status
from kimi_core.cli.usage import usage


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


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(_version(), prog_name="kimi-mitm", message="%(prog)s %(version)s")
def main() -> None:
    """Use a Kimi Code plan and Kiro accounts with any client, through mitmproxy.

    The options of the addon are read from mitmproxy's configuration file, as are the upstream proxy
    (mode: upstream:…, upstream_auth) and the trusted CA (ssl_verify_upstream_trusted_ca) that a company's network
    may ask for. HTTPS_PROXY in the environment is not followed: in a client's shell it points back at this proxy.
    """


for _command in (
    login,
    logout,
    status,
    usage,
    models,
    config,
    accounts,
    doctor,
    run,
    start,
    stop,
    logs,
    service,
    completion,
):
    main.add_command(_command)
