"""Commands, and parts of commands, that are imported only when they are used.

What a command needs in order to answer at once must not wait for torch. Nothing else in tvc imports
inside a function.
"""

import importlib
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from tvc.domain.names import nearest

__all__ = ["Lazy", "LazyGroup", "load"]


def load(target: str) -> Any:
    """Import `package.module:attribute` and return the attribute."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Lazy(NamedTuple):
    """Where a command is, and what the list of commands says of it."""

    target: str
    summary: str


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used.

    Args:
        lazy: Command name → where it is.
        sections: Heading → command names, in the order of the help.
    """

    def __init__(
        self,
        *args: Any,
        lazy: dict[str, Lazy],
        sections: dict[str, list[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy
        self._sections = sections or {"Commands": list(lazy)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of the help."""
        return [name for names in self._sections.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self._lazy:
            return None
        return load(self._lazy[cmd_name].target)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, and name the nearest where there is none of that name."""
        if args and args[0] not in self._lazy and not args[0].startswith("-"):
            hint = nearest(args[0], self._lazy)
            context = f" ({hint})" if hint else ""
            ctx.fail(f"there is no command {args[0]!r}{context}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing one."""
        for heading, names in self._sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name, self._lazy[name].summary) for name in names])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names without importing one."""
        items = [
            CompletionItem(name, help=lazy.summary)
            for name, lazy in self._lazy.items()
            if name.startswith(incomplete)
        ]
        return items + click.Command.shell_complete(self, ctx, incomplete)
