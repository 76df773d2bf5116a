"""A training's folder, from which it can be taken up again after whatever stopped it.

    run.json        settings, provenance so far, the recipe that is trained from
    data.jsonl      the examples, as token ids, and
    order.json      which of them make which step
    base/           the model that is trained from
    checkpoints/    the state after some steps
    log.jsonl       a line for each step
    model/          the result, once there is one: what `tvc commit` takes

It lies in the repository's private folder; its files are this machine's own and believed like an
index. Absent: the training.
"""

import json
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tvc.dialogues.example import Example
from tvc.domain.errors import StateError
from tvc.domain.names import check_name
from tvc.domain.vector import Scalar
from tvc.models.strict_json import parse_object
from tvc.training.settings import Settings
from tvc_store.durable import make_folder, sync_folder, write_durably, write_errors
from tvc_store.ids import ObjectId, parse_id
from tvc_store.lock import Lock, Locked

__all__ = ["NoRun", "Run", "RunBusy", "Task"]


_LINE_BYTES: Final = 1 << 16
"""More than a line of the log has."""


class NoRun(StateError):
    """There is no training of that name to take up."""


class RunBusy(StateError):
    """A training of that name is there already."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a run is to do, but for its data.

    Args:
        settings: With what numbers.
        recipe: Id of the recipe that is trained from.
        origin: Full hash of the commit that gave it.
        provenance: What the vector will say of the training, as far as it is known before.
        message: Of the commit.
    """

    settings: Settings
    recipe: ObjectId
    origin: str
    provenance: Mapping[str, Scalar]
    message: str


@dataclass(frozen=True, slots=True)
class Run:
    """A training's folder.

    Args:
        path: Where.
    """

    path: Path

    @classmethod
    def named(cls, folder: Path, name: str) -> "Run":
        """Return the run of a vector's name in a folder of runs; it need not be there."""
        return cls(folder / check_name(name).replace("/", "%"))

    @property
    def base(self) -> Path:
        """The model that is trained from."""
        return self.path / "base"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The result."""
        return self.path / "model"

    @property
    def log(self) -> Path:
        """One JSON object a step."""
        return self.path / "log.jsonl"

    @property
    def failure(self) -> Path:
        """What stopped a training that ran in processes of its own."""
        return self.path / "failure.json"

    @property
    def is_prepared(self) -> bool:
        """Whether everything that the training needs is there."""
        return (self.path / "run.json").is_file()

    @contextmanager
    def held(self) -> Generator[int | None]:
        """Keep others out while the context lasts; the folder is made if need be.

        Yields:
            The open lock file: a child process that inherits it keeps others out too.

        Raises:
            RunBusy: Another process is at it.
        """
        make_folder(self.path.parent)
        file = self.path.with_name(f"{self.path.name}.lock")
        lock = Lock.exclusive(file, command=f"tvc train {self.path.name}")
        with ExitStack() as stack:
            try:
                stack.enter_context(lock)
            except Locked as error:
                raise RunBusy(
                    f"{self.path.name} is being trained already: {error.message}",
                    hint="wait for it, or choose another name",
                ) from None
            make_folder(self.path)
            yield lock.fd

    def prepare(
        self, task: Task, examples: Sequence[Example], order: Sequence[Sequence[int]]
    ) -> None:
        """Write down what is to be done; the base is there already.

        Args:
            task: Settings and provenance.
            examples: The data.
            order: For each step, the numbers of its examples.

        Raises:
            WriteFailed: The system refused.
        """
        rows = [
            [list(each.context), [list(d) for d in each.decisions], each.source]
            for each in examples
        ]
        write_durably(self.path / "data.jsonl", [_json(row) for row in rows])
        write_durably(self.path / "order.json", [_json(order)])
        body = {
            "format": "tvc.run/1",
            "settings": task.settings.to_json(),
            "recipe": task.recipe,
            "origin": task.origin,
            "provenance": dict(task.provenance),
            "message": task.message,
        }
        # Last: a run is prepared from here on.
        write_durably(self.path / "run.json", [_json(body)])

    def task(self) -> Task:
        """Read what is to be done.

        Raises:
            NoRun: Nothing was prepared.
        """
        if not self.is_prepared:
            raise NoRun(
                f"there is no training of {self.path.name!r} to go on with",
                hint="start one without --resume",
            )
        body = parse_object((self.path / "run.json").read_bytes(), what="run.json")
        return Task(
            Settings.from_json(body["settings"]),
            parse_id(body["recipe"]),
            body["origin"],
            body["provenance"],
            body["message"],
        )

    def data(self) -> tuple[list[Example], list[list[int]]]:
        """Read examples and order."""
        examples: list[Example] = []
        with (self.path / "data.jsonl").open("rb") as lines:
            for line in lines:
                context, decisions, source = json.loads(line)
                examples.append(Example(tuple(context), tuple(map(tuple, decisions)), source))
        return examples, json.loads((self.path / "order.json").read_bytes())

    def say(self, facts: Mapping[str, Any]) -> None:
        """Add a line to the log."""
        with write_errors(self.log), self.log.open("ab") as log:
            log.write(_json(facts))

    def said(self) -> list[dict[str, Any]]:
        """Return the log, but for a last line that is cut short."""
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_bytes().split(b"\n")[:-1]]

    def said_last(self) -> dict[str, Any] | None:
        """Return the last whole line of the log, without reading the others."""
        if not self.log.exists():
            return None
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LINE_BYTES))
            lines = log.read().split(b"\n")[:-1]
        return json.loads(lines[-1]) if lines else None

    def rewind(self, step: int) -> None:
        """Take out of the log what was said of later steps, which will be made again."""
        kept = [_json(facts) for facts in self.said() if facts["step"] <= step]
        write_durably(self.log, kept)

    def clear(self) -> None:
        """Remove what is in the folder, so that nothing is taken for a run that can go on."""
        with write_errors(self.path):
            (self.path / "run.json").unlink(missing_ok=True)
            sync_folder(self.path)
            for each in self.path.iterdir():
                if each.is_dir():
                    shutil.rmtree(each)
                else:
                    each.unlink()

    def remove(self) -> None:
        """Remove the folder."""
        self.clear()
        self.path.rmdir()

    def fail(self, error: str, hint: str | None, exit_code: int) -> None:
        """Leave word of what stopped a process of the training."""
        body = {"error": error, "hint": hint, "exit_code": exit_code, "pid": os.getpid()}
        write_durably(self.failure, [_json(body)])


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
