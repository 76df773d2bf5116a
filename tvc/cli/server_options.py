"""Options of the commands that ask a running server, each declared once."""

from collections.abc import Callable
from typing import Any, Final

import click

__all__ = ["server_options"]

_DAY: Final = 86400.0


def _read_seconds(context: click.Context, parameter: click.Parameter, value: float) -> float:
    del context, parameter  # click's signature
    if not 1 <= value <= _DAY:  # which no NaN is, nor what no socket can wait
        raise click.BadParameter(f"{value:g} is not in the range 1<=x<={_DAY:g}.")
    return value


_KEY = click.option(
    "--api-key", envvar="VLLM_API_KEY", metavar="KEY", help="The server's key, if it wants one."
)
_TIMEOUT = click.option(
    "--timeout",
    type=float,
    callback=_read_seconds,
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for one answer; a pause waits for the longest request under way.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--timeout`, `--api-key` and `--json`."""
    return _TIMEOUT(_KEY(_JSON(command)))
