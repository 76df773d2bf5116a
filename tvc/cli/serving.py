"""tvc serve, push-live and live."""

from typing import Any

import click

from tvc.cli.completing import complete_revision
from tvc.cli.lazy import load
from tvc.cli.live_adapters import load_lora, unload_lora
from tvc.cli.server_options import server_options
from tvc.cli.session import Session, pass_session

__all__ = ["live", "push_live", "serve"]


class _WithFlags(click.Command):
    """A command whose first argument stands before `--`, or is left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `HEAD` in front of `--`, where no revision stands."""
        at = args.index("--") if "--" in args else 0
        if "--" in args and all(each.startswith("-") for each in args[:at]):
            args = [*args[:at], "HEAD", *args[at:]]
        return super().parse_args(ctx, args)


@click.command(cls=_WithFlags, epilog="Example: tvc serve main -- --max-model-len 8192")
@click.argument("revision", default="HEAD", shell_complete=complete_revision, metavar="[REV]")
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[-- FLAGS OF VLLM]")
@click.option(
    "--stream", is_flag=True, help="Write no folder: stream the tensors from the store into vLLM."
)
@click.option(
    "--live/--no-live",
    default=None,
    help="Let the server be asked and changed by who reaches it (default: if only this machine"
    " does).",
)
@click.option("--dry-run", is_flag=True, help="Only say how vLLM would be started.")
@pass_session
def serve(session: Session, **options: Any) -> None:
    """Start vLLM on a commit; flags after -- are those of vllm serve.

    REV is a branch, tag or commit, or with --stream a recipe too. The model is checked out into
    the repository's private part, where the next server that needs another one removes it, and
    vLLM is started on it. It listens on this machine only, unless a --host is named.
    """
    load("tvc.cli.work.serving:serve")(session, **options)


@click.command("push-live", epilog="Example: tvc push-live http://localhost:8000 brief")
@click.argument("url")
@click.argument("revision", required=False, shell_complete=complete_revision, metavar="[REV]")
@click.option("--undo", is_flag=True, help="Go back to what was served before the last push.")
@click.option(
    "--mode",
    type=click.Choice(["paused", "hogwild"]),
    default="paused",
    show_default=True,
    help="Wait for running requests, or write while they run.",
)
@click.option(
    "--kind",
    type=click.Choice(["dense", "sparse"]),
    help="Send whole tensors, or the elements that changed (default: the shorter).",
)
@click.option(
    "--from-store", is_flag=True, help="Let the server read the repository; nothing is sent."
)
@server_options
@pass_session
def push_live(session: Session, **options: Any) -> None:
    """Make a running server another commit, without starting it again.

    REV is a commit, branch, tag or recipe (default: HEAD) over the base that is served. Only what
    differs travels. Paused, no request sees two commits: those under way are finished, new ones
    wait. In mode hogwild requests go on while weights are written, and may see some of each.
    Afterwards every tensor was read back. The server was started by tvc serve on this machine.
    """
    load("tvc.cli.work.serving:push_live")(session, **options)


class _WithDefault(click.Group):
    """A group in which anything but a command's name is an argument of `show`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `show` in front, where no command stands."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_WithDefault,
    epilog="Example: tvc live http://localhost:8000",
    no_args_is_help=True,
    subcommand_metavar="URL | COMMAND [ARGS]...",
)
def live() -> None:
    """Say which commit a running server serves, attested tensor by tensor; load adapters."""


@live.command(epilog="Example: tvc live show http://localhost:8000")
@click.argument("url")
@click.option("--resume", is_flag=True, help="Let the requests of a paused server go on.")
@server_options
@pass_session
def show(session: Session, **options: Any) -> None:
    """Say what a server serves, after reading every tensor back (`tvc live URL` is short for it).

    Where the commit is in this repository, its tensors are compared with the server's, one by one;
    elsewhere with what the server itself loaded.
    """
    load("tvc.cli.work.serving:live")(session, **options)


live.add_command(load_lora)
live.add_command(unload_lora)
