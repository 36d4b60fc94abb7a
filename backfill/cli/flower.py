"""`backfill flower`: Flower, with the runs of this project in it."""

from __future__ import annotations

import importlib.util

import click

from backfill.cli.options import Whole
from backfill.cli.session import Session, pass_session
from backfill.errors import ProjectError


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--port", type=Whole(0, 65_535), metavar="NUMBER", help="Where it listens; else 5555."
)
@click.option("--address", metavar="HOST", help="On which address; else 127.0.0.1.")
@click.option("--url-prefix", metavar="PATH", help="Behind a proxy: where its pages begin.")
@click.option(
    "--basic-auth",
    metavar="USER:PASSWORD",
    multiple=True,
    help="Who may log in. Better in FLOWER_BASIC_AUTH: other processes can read arguments.",
)
@click.option("--read-only", is_flag=True, help="Offer nothing that changes anything.")
@click.argument("flower_arguments", nargs=-1, type=click.UNPROCESSED, metavar="[FLOWER...]")
@pass_session
def flower(
    session: Session,
    *,
    port: int | None,
    address: str | None,
    url_prefix: str | None,
    basic_auth: tuple[str, ...],
    read_only: bool,
    flower_arguments: tuple[str, ...],
) -> int:
    """Show runs and tasks in a browser, and change runs there.

    All other flags are Flower's own, such as --auth for OAuth or --certfile; each can be a variable
    as well, such as FLOWER_URL_PREFIX. Who reaches the server from elsewhere changes runs only if
    it asks for a login.
    """
    project = session.project
    if importlib.util.find_spec("flower") is None:
        raise ProjectError(
            "Flower is not installed", remedy="Install the extra: pip install 'backfill[flower]'"
        )
    from backfill.flower.main import start

    given = {"port": port, "address": address, "url-prefix": url_prefix}
    flags = [
        *(f"--{name}={value}" for name, value in given.items() if value is not None),
        *([f"--basic-auth={','.join(basic_auth)}"] if basic_auth else []),
        *(["--read-only"] if read_only else []),
        *flower_arguments,
    ]
    return start(project, flags, say=lambda line: click.echo(line, err=True))
