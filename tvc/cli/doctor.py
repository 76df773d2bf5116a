"""tvc doctor."""

import click

from tvc.cli.lazy import load
from tvc.cli.session import Session, pass_session

__all__ = ["doctor"]


@click.command(epilog="Example: tvc doctor")
@click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
@pass_session
def doctor(session: Session, *, as_json: bool) -> None:
    """Say what tvc runs on: versions, compiled parts, and the repository's disk.

    Differences are coded and merges computed by compiled loops for the processor's vector
    instructions (AVX-512, AVX2), by plain C, or, where nothing was compiled, by NumPy: with the
    same bytes, but slower. Nothing is changed, and no object is read: see `tvc fsck`. Exits with 1
    where something should be put right.
    """
    load("tvc.cli.work.doctor:doctor")(session, as_json=as_json)
