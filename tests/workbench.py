"""A real repository in a folder, worked on through the layers below the command line."""

import json
from pathlib import Path

from tvc.checkout.writing import Checkout
from tvc.domain.grammar import parse_sum
from tvc.domain.recipe import Recipe
from tvc.models.directory import ModelDirectory
from tvc.recording.committing import commit_finetune
from tvc.recording.matching import Allowances
from tvc.recording.starting import start_repository
from tvc.repository.objects import Objects, open_objects
from tvc_store.dtypes import TensorSpec

__all__ = ["Bench", "write_model"]

NOTHING_ALLOWED = Allowances()


def write_model(folder: Path, tensors: dict[str, tuple[TensorSpec, bytes]], config=None) -> Path:
    """Write a model directory by hand: any element type, any bits."""
    folder.mkdir(parents=True)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (spec, data) in sorted(tensors.items()):
        assert len(data) == spec.nbytes
        end = offset + len(data)
        header[name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    body = b"".join(data for _, (_, data) in sorted(tensors.items()))
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + body)
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "test"}))
    return folder


class Bench:
    """One repository and the folder it lies in."""

    def __init__(
        self, folder: Path, base: dict[str, tuple[TensorSpec, bytes]], config=None
    ) -> None:
        self.folder = folder
        self.count = 0
        model = ModelDirectory.open(write_model(folder / "base", base, config))
        self.repository = start_repository(
            folder / "repo",
            model,
            name="base",
            source="base",
            revision=None,
            vendor=False,
            command="init",
        )

    def commit(self, name: str, tensors, config=None, allowed=NOTHING_ALLOWED):
        model = ModelDirectory.open(write_model(self.folder / name, tensors, config))
        with self.repository.change(f"commit {name}") as change:
            return commit_finetune(change, model, name=name, message=name, allowed=allowed)

    def recipe(self, text: str, files=()) -> None:
        """Commit another recipe over the vectors that HEAD has."""
        with self.repository.change(f"recipe {text}") as change:
            state = self.repository.state_at("HEAD")
            recipe = Recipe("base", parse_sum(text), tuple(files))
            change.commit(state.with_recipe(recipe), text)

    def checkout(self, revision: str = "HEAD", *, workers: int = 2, **options) -> ModelDirectory:
        self.count += 1
        target = self.folder / f"out{self.count}"
        with open_objects(self.repository.layout) as store:
            state = self.repository.state_at(revision)
            planned = Checkout(
                Objects(store, state),
                state.recipe,
                commit=self.repository.git.resolve(revision),
                workers=workers,
                dtype=options.pop("dtype", None),
            )
            planned.write(
                target,
                title="test",
                shard_size=options.pop("shard_size", 10**9),
                verify=True,
                **options,
            )
        return ModelDirectory.open(target)

    def tensors(self, revision: str = "HEAD", **options) -> dict[str, tuple[TensorSpec, bytes]]:
        model = self.checkout(revision, **options)
        return {
            name: (entry.spec, model.read(name).tobytes()) for name, entry in model.entries.items()
        }
