"""The command ``list``: which backends are installed, what they offer, and which are broken."""

from __future__ import annotations

import dataclasses

from deerflow_backends import CONTRACT_VERSION, plugins
from deerflow_backends.cli.output import cell, console, print_json, table
from deerflow_backends.distributions import CORE
from deerflow_backends.plugins import InstalledPlugin


def list_installed(*, as_json: bool) -> None:
    """Print every installed plugin; a broken one shows why."""
    found = plugins.installed()
    if as_json:
        print_json({"contract": CONTRACT_VERSION, "plugins": [dataclasses.asdict(plugin) for plugin in found]})
        return
    listing = table("backend", "distribution", "version", "contract", "capabilities")
    for plugin in found:
        style = "red" if plugin.error else ""
        offered = "broken, see below" if plugin.error else ", ".join(plugin.capabilities)
        columns = (plugin.name, plugin.distribution, plugin.version, _contract(plugin), offered)
        listing.add_row(*(cell(column, style) for column in columns))
    out = console()
    out.print(listing)
    for plugin in found:
        if plugin.error:
            out.print(cell(f"{plugin.name}: {plugin.error}", "red"), soft_wrap=True)


def _contract(plugin: InstalledPlugin) -> str:
    """Return the versions of core that the plugin goes with, which are the contract's; core's own go with itself."""
    return plugin.requires or (CONTRACT_VERSION if plugin.distribution == CORE else "?")
