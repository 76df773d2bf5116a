"""tvc live load-lora and unload-lora: adapters of a running vLLM."""

from typing import Any

import click

from tvc.cli.adapters import read_rank
from tvc.cli.completing import complete_vector
from tvc.cli.lazy import load
from tvc.cli.server_options import server_options
from tvc.cli.session import Session, pass_session

__all__ = ["load_lora", "unload_lora"]


@click.command("load-lora", epilog="Example: tvc live load-lora http://localhost:8000 calm listen")
@click.argument("url")
@click.argument("name")
@click.argument("source", shell_complete=complete_vector, metavar="VECTOR|DIR")
@click.option(
    "--rank",
    callback=read_rank,
    metavar="N|auto",
    help="Of a vector: rank of the adapter that stands for it, as in tvc export --lora.",
)
@click.option(
    "--energy",
    type=float,
    metavar="SHARE",
    help="Of a vector, with --rank auto: share of its squared norm to keep. Default: 0.9.",
)
@server_options
@pass_session
def load_lora(session: Session, **options: Any) -> None:
    """Have a running vLLM answer as NAME with an adapter, without starting it again.

    The adapter is a folder (DIR, written with a slash), or made of a vector of this repository, as
    tvc export does: one that was taken in as an adapter is given as it was, if no rank is said.
    What is made lies in the repository's private part, in a folder of its own for every content,
    which the server has to be able to read. An adapter that is called NAME already is replaced. A
    DIR whose content changed needs another path: vLLM remembers answers by name and path.

    The server was started with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1.
    """
    load("tvc.cli.work.live_adapters:load_lora")(session, **options)


@click.command("unload-lora", epilog="Example: tvc live unload-lora http://localhost:8000 calm")
@click.argument("url")
@click.argument("name")
@server_options
@pass_session
def unload_lora(session: Session, **options: Any) -> None:
    """Have a running vLLM forget the adapter NAME."""
    load("tvc.cli.work.live_adapters:unload_lora")(session, **options)
