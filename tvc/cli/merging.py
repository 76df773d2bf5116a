"""tvc merge."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tvc.cli.completing import complete_revision
from tvc.cli.lazy import load
from tvc.cli.session import Session, pass_session
from tvc.merging.installed import method_names

__all__ = ["merge"]


_FLAGS = ("ties", "dare", "dare_ties", "della", "breadcrumbs", "sce", "slerp", "linear")


def _method_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    for name in reversed(method_names()):
        flag = f"--{name.replace('_', '-')}"
        command = click.option(
            flag, "flag", flag_value=name, hidden=name not in _FLAGS, help=f"Merge by {name}."
        )(command)
    return command


@click.command(
    epilog='Example: tvc merge --ties listen brief --density 0.2 -m "Listen, and be brief"'
)
@click.argument("branches", nargs=-1, shell_complete=complete_revision, metavar="[BRANCH]...")
@click.option("--method", metavar="NAME", help=f"One of: {', '.join(method_names())}.")
@_method_flags
@click.option("--density", metavar="D", help="Share of each vector that is kept.")
@click.option("--scope", type=click.Choice(["tensor", "vector"]), help="What is trimmed at once.")
@click.option("--normalize", metavar="count|weights|none", help="What the sum is divided by.")
@click.option("--lambda", "scale", default="1", metavar="K", help="Scale of the merged difference.")
@click.option(
    "--weight", "weights", multiple=True, metavar="BRANCH=K", help="Weight of a branch. Repeatable."
)
@click.option("--seed", type=click.IntRange(min=0), help="Seed of random methods.")
@click.option("-O", "--option", multiple=True, metavar="NAME=VALUE", help="Any option of a method.")
@click.option("--like", type=click.Choice(["mergekit", "peft", "paper"]), help="Do what these do.")
@click.option(
    "--from-mergekit",
    "config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Merge what a mergekit YAML file says, where it can be said as a recipe.",
)
@click.option("-m", "--message", help="The commit's message.")
@click.option("--no-commit", is_flag=True, help="Leave the result in the working tree.")
@click.option("--no-ff", is_flag=True, help="Make a merge commit where moving would do.")
@click.option("--ours", "favour", flag_value="ours", help="Take our side in conflicts.")
@click.option("--theirs", "favour", flag_value="theirs", help="Take their side in conflicts.")
@click.option("--dry-run", is_flag=True, help="Say what would be merged, and how much it clashes.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print facts as JSON.")
@click.option("--abort", is_flag=True, help="Go back to before a merge with conflicts.")
@pass_session
def merge(session: Session, **options: Any) -> None:
    """Merge branches into the current one.

    Without a method, terms are merged as git merges lines: what one side changed is changed. With
    one, what each side changed since their merge base becomes an argument of the method, and the
    recipe holds the method and its options: ties(listen, brief; density=0.2).
    """
    load("tvc.cli.work.merging:merge")(session, **options)
