"""tvc completion: the script that makes a shell complete tvc's commands and names."""

from typing import Final

import click
from click.shell_completion import get_completion_class

from tvc.domain.errors import InputError

__all__ = ["completion"]

_SHELLS: Final = ("bash", "zsh", "fish")


@click.command(epilog='Example: eval "$(tvc completion bash)"')
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, *, shell: str) -> None:
    """Print the completion script of a shell.

    For bash, put the example into ~/.bashrc; for zsh into ~/.zshrc; for fish run
    `tvc completion fish > ~/.config/fish/completions/tvc.fish`.
    """
    script = get_completion_class(shell)
    if script is None:
        raise InputError(f"there is no completion for {shell}")
    root = context.find_root().command
    click.echo(script(root, {}, "tvc", "_TVC_COMPLETE").source())
