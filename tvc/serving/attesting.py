"""Compares what a server holds with what a commit is, tensor by tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tvc.domain.errors import TvcError
from tvc.evaluation.numbers import cast_elements
from tvc.serving.changing import is_held_alike
from tvc.serving.server import LiveServer, Serving, Unfit
from tvc.serving.source import Location, Served, served
from tvc_store.ids import ObjectId, tensor_id

__all__ = ["Attested", "attest"]


@dataclass(frozen=True, slots=True)
class Attested:
    """What came of reading a server's tensors back.

    Args:
        with_commit: Whether they were compared with a commit of a repository here, and not only
            with what the server said.
        equal: Names of the tensors that are what they should be.
        wrong: Name → what is wrong with it.
        unheld: Name of each tensor that the server does not hold as it is → why.
    """

    with_commit: bool
    equal: tuple[str, ...]
    wrong: dict[str, str]
    unheld: dict[str, str]


def attest(
    server: LiveServer,
    serving: Serving,
    root: Path | None,
    *,
    on_plan: Callable[[int], Callable[[int], None]] = lambda _: lambda _: None,
) -> Attested:
    """Have a server's tensors read back, and compare them.

    Args:
        server: It.
        serving: What it says it serves.
        root: A repository that may have the commit; None for none.
        on_plan: Told of the bytes that are compared, returns what is told of every tensor's.

    Raises:
        EndpointFailed: The server does not answer.
        Unfit: Its tensors were changed while they were read.
    """
    on_bytes = on_plan(2 * serving.nbytes)
    expected, with_commit = _expected(serving, root, on_bytes)
    found = server.digests(serving, on_bytes=on_bytes)
    wrong = {
        name: f"is {found.get(name, 'not there')}"
        for name in serving.held
        if found.get(name) != expected.get(name)
    }
    if wrong:
        now = server.describe()
        if now.raw.get("writing") is True or now.raw["state"] != serving.raw["state"]:
            raise Unfit(
                f"{server.url} is being written to: it is at {now.name}, and its tensors changed"
                " while they were read",
                hint="ask again, or when what changes it (a training, a push) is done",
            )
    equal = tuple(name for name in serving.held if name not in wrong)
    unheld = {str(name): str(entry["why"]) for name, entry in serving.raw["unheld"].items()}
    return Attested(with_commit, equal, wrong, unheld)


def _expected(
    serving: Serving, root: Path | None, on_bytes: Callable[[int], None]
) -> tuple[dict[str, ObjectId], bool]:
    revision = serving.commit or serving.recipe
    if root is None or not revision:
        return dict(serving.ids), False
    try:
        with served(Location(root, revision)) as source:
            if source.label == serving.label:  # else its recipe is another's than its name
                return _ids(source, serving, on_bytes), True
    except TvcError:
        pass
    return dict(serving.ids), False


def _ids(source: Served, serving: Serving, on_bytes: Callable[[int], None]) -> dict[str, ObjectId]:
    """Return what the tensors of a model are in the types that a server holds."""
    found: dict[str, ObjectId] = {}
    specs = source.specs
    for name in specs.keys() & serving.held.keys():
        known = source.known(name)
        if known is not None and specs[name] == serving.held[name]:
            found[name] = known
    shared = sorted(serving.held.keys() & specs.keys())
    rest = [n for n in shared if n not in found and is_held_alike(specs[n], serving.held[n])]
    for name, content in source.tensors(rest):
        spec = serving.held[name]
        found[name] = tensor_id(spec, cast_elements(content, specs[name].dtype, spec.dtype))
        on_bytes(spec.nbytes)
    return found
