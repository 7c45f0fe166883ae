"""The command ``migrate``: bring the schema of every configured connection up to date, or tell what is due."""

from __future__ import annotations

from deerflow_backends.backends import plan
from deerflow_backends.cli.output import cell, console, print_json
from deerflow_backends.configuration import Configuration


async def migrate(configuration: Configuration, *, dry_run: bool, as_json: bool) -> None:
    """Take the due steps of each connection, or with *dry_run* only name them, and print them as they are taken.

    Raises:
        BackendsError: As `deerflow_backends.open_backends` does. The steps printed were taken, no others.
    """
    out = console()
    for connection, due in await plan(configuration).due():
        steps = due if dry_run or not due else await connection.migrate(apply=True)
        if as_json:
            backend = connection.plugin.name
            print_json({"connection": connection.name, "backend": backend, "applied": not dry_run, "steps": steps})
            continue
        what = "is up to date" if not steps else "due" if dry_run else "done"
        out.print(cell(f"{connection.name}: {what}", "" if steps else "dim"), soft_wrap=True)
        for step in steps:
            out.print(cell(f"  {step}"), soft_wrap=True)
