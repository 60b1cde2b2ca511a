"""Kimi Code on the command line: where the commands meet the login, the models and the usage."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text

from kimi_core.blocks.kimi import BLOCK_NAMES, blocks
from kimi_core.blocks.place import Block
from kimi_core.cli.app import App
from kimi_core.cli.keeping import kept
from kimi_core.cli.kimi_views import USABLE, models_view, status_object, status_view, usage_view
from kimi_core.cli.output import ExitCode, Report
from kimi_core.cli.steps import Steps
from kimi_core.cli.wish import Wish
from kimi_core.errors import ConfigError, KimiMitmError, StoreBusy
from kimi_core.kimi.account import Account
from kimi_core.kimi.constants import Site, site_for, sites
from kimi_core.kimi.device import Device, device_id_path
from kimi_core.kimi.identity import build, load
from kimi_core.kimi.models import Catalog
from kimi_core.kimi.oauth import device_flow
from kimi_core.kimi.session import Session, SessionStatus
from kimi_core.proxy.key import AUTO, key_path
from kimi_core.store import Document
from kimi_core.tokens import OAuthToken


class Kimi:
    """The `Provider` of Kimi Code."""

    wishes = frozenset({"output_limit"})
    block_names: tuple[str, ...] = BLOCK_NAMES

    def status(self, app: App) -> Report:
        """Tell what is stored for every region; the exit code is that of the region in use."""
        settings = app.configuration.settings
        environ = app.world.environ
        every = sites(settings.kimi_region, environ)
        # no request is made, so no device id is needed, and none is made by looking
        nobody = build(settings.kimi_identity, Device.here(), "")
        found = [
            Session(site, nobody, app.configuration.outbound, folder=app.folder, clock=app.world.clock).status()
            for site in every
        ]
        device_id = device_id_path(settings.kimi_identity, environ, app.world.home)
        data = {
            "region": settings.kimi_region,
            "logins": [
                status_object(site, status, app.world.clock()) for site, status in zip(every, found, strict=True)
            ],
            "identity": {
                "name": settings.kimi_identity,
                "device_id_file": str(device_id) if device_id else None,
                "device_id_exists": bool(device_id and device_id.is_file()),
            },
            "client_key": _key_object(app),
        }
        code = ExitCode.OK if found[0].state in USABLE else ExitCode.NOT_LOGGED_IN
        empty = all(status.state == "none" for status in found)
        return Report(data, status_view(data), code, empty=empty)

    async def login(self, app: App, steps: Steps, wish: Wish) -> None:
        """Run the device flow, store the login, then read the models; a failure of the latter loses nothing."""
        account = _account(app)
        _probe(account.session.status())  # where it cannot be stored, that is said before it is approved
        async with app.configuration.outbound.client() as client:
            token = await device_flow(
                client,
                account.site,
                account.identity.headers("oauth"),
                on_code=steps.code,
                on_wait=steps.waiting,
                clock=app.world.clock,
                sleep=app.world.sleep,
            )
        approved = _Approved(account.session, token, steps)
        path = await kept(approved.store, steps, app.world.sleep)
        steps.stored(path, approved.aside[0] if approved.aside else None)
        catalog, problem = await _discover(account)
        lines = _blocks(app, catalog, wish.output_limit)
        steps.models([model.to_json() for model in catalog.models], lines, problem)

    def logout(self, app: App, account: str | None) -> Report:
        """Delete the login of the region in use. Raises ConfigError for an *account*: a region has one login."""
        if account is not None:
            raise ConfigError("Kimi has one login per region; name the region.")
        site = _site(app)
        nobody = build(app.configuration.settings.kimi_identity, Device.here(), "")
        session = Session(site, nobody, app.configuration.outbound, folder=app.folder)
        path = session.status().path
        forgotten = session.forget()
        sentence = (
            f"Logged out of {site.slot}; {path} is gone." if forgotten else f"There was no login for {site.slot}."
        )
        return Report({"slot": site.slot, "path": str(path), "removed": forgotten}, Text(sentence))

    async def usage(self, app: App) -> Report:
        """Ask for the usage."""
        account = _account(app)
        usage = await account.fetch_usage()
        return Report({"slot": account.site.slot, **usage.to_json()}, usage_view(usage, app.world.clock()))

    async def models(self, app: App) -> Report:
        """Ask for the models."""
        account = _account(app)
        catalog = await account.fetch_models()
        data = {
            "slot": account.site.slot,
            "fetched_at": catalog.fetched_at,
            "models": [model.to_json() for model in catalog.models],
        }
        return Report(data, models_view(catalog))

    async def blocks(self, app: App, output_limit: int | None, *, local: bool | None = None) -> tuple[Block, ...]:
        """Return the lines for clients; with the models known from before where they cannot be read now."""
        catalog, problem = await _discover(_account(app))
        if problem:
            app.out.warn(f"The models could not be read now: {problem.sentence}")
        return _blocks(app, catalog, output_limit, local=local)


@dataclass
class _Approved:
    """A token on its way to disk; `aside` is where files went that were in its place and could not be used."""

    session: Session
    token: OAuthToken
    steps: Steps
    aside: list[Path] = field(default_factory=list)
    told: bool = False

    async def store(self) -> Path:  # awaits nothing: Ctrl-C comes before the old login is touched, or after
        status = self.session.status()
        if status.state == "damaged":
            _probe(status)  # a file that nothing could take the place of stays where it is
            self.aside.append(Document(status.path).put_aside())
        if not self.told:
            self._tell_who_is_waited_for(Document(status.path))
        return self.session.save(self.token)

    def _tell_who_is_waited_for(self, document: Document) -> None:
        try:
            with document.lock(0.0):
                pass
        except StoreBusy:
            self.told = True  # once, though others are waited for at every try: that takes a while
            busy = StoreBusy(f"{document.path} is in use by another process, which is waited for.")
            self.steps.unstored(busy)


def _probe(status: SessionStatus) -> None:
    """Raise StoreError where no login could be stored now; a file that cannot be read is put aside, no hindrance."""
    path = status.path
    Document(path.with_name(f"{path.name}.new") if status.state == "damaged" else path).probe()


async def _discover(account: Account) -> tuple[Catalog, KimiMitmError | None]:
    try:
        return await account.fetch_models(), None
    except KimiMitmError as error:
        return account.cache.catalog, error


def _site(app: App) -> Site:
    return site_for(app.configuration.settings.kimi_region, app.world.environ)


def _account(app: App) -> Account:
    identity = load(app.configuration.settings.kimi_identity, app.world.environ, app.world.home)
    return Account(_site(app), identity, app.configuration.outbound, app.folder, clock=app.world.clock)


def _blocks(app: App, catalog: Catalog, output_limit: int | None, *, local: bool | None = None) -> tuple[Block, ...]:
    place = app.place("kimi", _site(app).base, local=local)
    return blocks(catalog, place, output_limit)


def _key_object(app: App) -> dict[str, Any]:
    option = app.configuration.settings.kimi_client_key
    mode = "auto" if option == AUTO else "set" if option else "none"
    path = key_path(app.folder) if option == AUTO else None
    return {"mode": mode, "file": str(path) if path else None, "file_exists": bool(path and path.is_file())}
