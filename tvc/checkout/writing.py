"""Writes a commit as a model directory that transformers and vLLM load as it is.

Planned first, without reading a weight; then tensors stream into their place in the shards, a few
at a time (tensors.py). Code of the source model is written only when asked for.
"""

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from tvc import __version__
from tvc.checkout.card import model_card, public_source
from tvc.checkout.folder import replaced_folder
from tvc.checkout.previous import FACTS, FORMAT, Previous
from tvc.checkout.servable import check_servable
from tvc.checkout.tensors import TensorWriting
from tvc.domain.errors import IntegrityError
from tvc.domain.files import FileVersion, plan_files
from tvc.domain.plan import FLOATING, Combine, Copy, Costs, Plan, Restore
from tvc.domain.planning import CannotCombine, plan
from tvc.domain.recipe import Recipe, format_recipe, recipe_id
from tvc.domain.vector import BaseRecord
from tvc.evaluation.engine import Evaluator
from tvc.models.directory import ModelDirectory
from tvc.models.ties import tied_names
from tvc.models.writer import plan_shards
from tvc.repository.objects import Objects
from tvc_store.dtypes import TensorSpec
from tvc_store.durable import make_folder, write_durably
from tvc_store.elements import elements_id
from tvc_store.ids import ObjectId

__all__ = ["Checkout", "Written", "WrongBytes"]

_ID_BYTES: Final = 32
_TORCH_NAMES: Final = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


class WrongBytes(IntegrityError):
    """What was read back from a written checkout is not what was written."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a checkout wrote.

    Args:
        folder: Where.
        tensors: Number of tensors.
        kept: Number of those that were taken from the checkout that was there.
        nbytes: Bytes of tensors.
        ids: Tensor name → id of what was written.
        code: Python files that were not written, for want of `allow_code`.
    """

    folder: Path
    tensors: int
    kept: int
    nbytes: int
    ids: Mapping[str, ObjectId]
    code: tuple[str, ...]


class Checkout:
    """A commit that is about to be written.

    Args:
        objects: Where its objects are, and what its names stand for.
        recipe: By names.
        commit: Full hash.
        dtype: Element type to cast floating tensors to, as safetensors names it; None for theirs.
        workers: Tensors at a time.

    Raises:
        CannotCombine: The recipe asks for arithmetic that is not defined.
        FileConflict: Two vectors change one carried file differently.
        InputError: A merge names a method or an option that there is not.
    """

    def __init__(
        self,
        objects: Objects,
        recipe: Recipe,
        *,
        commit: str,
        dtype: str | None = None,
        workers: int = 2,
    ) -> None:
        self._store = objects.store
        self._cache = objects.cache
        self._read_blob = objects.read_blob
        self._library = library = objects.library
        self._recipe = recipe
        self._commit = commit
        self._dtype = dtype
        self._workers = workers
        self.normal = library.normal_form(recipe)
        self.plan: Plan = plan(self.normal, library)
        self.files: dict[str, FileVersion] = plan_files(self.normal, library)
        self.evaluator = Evaluator(objects, self.plan, workers=workers, cache=objects.cache)
        self._refuse_quantized()

    @property
    def base(self) -> BaseRecord:
        """The recipe's base."""
        return self._library.base(self._recipe.base)

    @property
    def costs(self) -> Costs:
        """What writing it takes."""
        return self.plan.costs(passes=self.evaluator.passes)

    @property
    def work_bytes(self) -> int:
        """Bytes that `on_bytes` will have been called with in the end."""
        merged = sum(
            self.specs[name].nbytes for tensors in self.plan.merges.values() for name in tensors
        )
        once = sum(spec.nbytes for spec in self.plan.specs().values())
        return once + merged * self.evaluator.passes

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """Type and shape of every tensor as it will be written."""
        return {name: self._cast(spec) for name, spec in self.plan.specs().items()}

    def check_servable(self) -> bool:
        """Refuse what vLLM would serve wrongly, before anything is read or written.

        Returns:
            Whether it was checked: False where tvc does not know the architecture.

        Raises:
            Unservable: vLLM would drop a tensor, leave one uninitialised, or refuse the model.
        """
        actions = self.plan.actions.items()
        kept = {name: a.tensor.id for name, a in actions if isinstance(a, Copy | Restore)}
        shapes = {name: spec.shape for name, spec in self.plan.specs().items()}
        return check_servable(self._source_config(), shapes, ids=kept, files=self.files)

    def write(
        self,
        target: Path,
        *,
        title: str,
        force: bool = False,
        shard_size: int,
        allow_code: bool = False,
        verify: bool = False,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> Written:
        """Write the model directory.

        Args:
            target: The folder; free, empty, or with `force` one that holds a model.
            title: What the model card is headed with.
            force: Replace a model that is there.
            shard_size: Bytes of tensors that one file may have.
            allow_code: Write the source model's Python files too.
            verify: Read everything back and compare it with the ids, before it is put in place.
            on_bytes: Called with the bytes of every tensor done.

        Raises:
            TargetInTheWay: The target may not be replaced.
            IntegrityError: An object is damaged or missing; its vectors are named by the caller.
            WrongBytes: What was read back is not what was written.
            WriteFailed: The system refused.
        """
        specs = self.specs
        tensors = TensorWriting(
            self._store,
            self.evaluator,
            self.plan.specs(),
            specs,
            plan_shards(specs, shard_size=shard_size),
            self._workers,
            on_bytes,
        )
        with replaced_folder(target, force=force) as folder:
            with self._remembered(tensors):
                kept = tensors.write(folder, Previous.read(target))
            ids = tensors.ids
            self._check_ties(ids)
            code = self._write_files(folder, allow_code=allow_code)
            write_durably(folder / "README.md", [self._card(title).encode()])
            write_durably(folder / FACTS, [self._facts(ids)])
            if verify:
                _verify(folder, ids)
        nbytes = sum(spec.nbytes for spec in specs.values())
        return Written(target, len(ids), kept, nbytes, ids, code)

    @contextmanager
    def _remembered(self, tensors: TensorWriting) -> Generator[None]:
        """Say what came of computing the same before, and keep what comes of it in the context."""
        names = tensors.computed
        versions = [f"{name} {text}" for name, text in self._versions().items()]
        key = " ".join(["checkout", recipe_id(self.normal), self._dtype or "as stored", *versions])
        found = self._cache.get(key, size=_ID_BYTES * len(names)) if names else None
        if found is not None:
            parts = [found[at : at + _ID_BYTES] for at in range(0, len(found), _ID_BYTES)]
            ids = [ObjectId(part.hex()) for part in parts]
            tensors.expected = dict(zip(names, ids, strict=True))
        yield
        now = b"".join(bytes.fromhex(tensors.ids[name]) for name in names)
        if names and now != found:
            self._cache.put(key, now)

    @staticmethod
    def _versions() -> dict[str, str]:
        return {"tvc": __version__, "torch": version("torch")}

    def _check_ties(self, ids: Mapping[str, ObjectId]) -> None:
        """Refuse two tensors that config.json ties but the recipe made different."""
        for name, source in tied_names(self._source_config(), ids).items():
            if ids[name] != ids[source]:
                raise CannotCombine(
                    f"config.json ties {name} to {source}, but the recipe makes them different",
                    hint="take out the vector that changes only one of them",
                )

    def _source_config(self) -> dict[str, Any]:
        config = self.files.get("config.json")
        return json.loads(config.read(self._read_blob)) if config else {}

    def _write_files(self, folder: Path, *, allow_code: bool) -> tuple[str, ...]:
        left: list[str] = []
        for path, chosen in self.files.items():
            if path.endswith(".py") and not allow_code:
                left.append(path)
                continue
            data = chosen.read(self._read_blob)
            if path == "config.json":
                data = self._config(data)
            parent = folder
            for segment in path.split("/")[:-1]:
                parent /= segment
                make_folder(parent)
            write_durably(folder / path, [data])
        return tuple(left)

    def _config(self, data: bytes) -> bytes:
        """Return config.json with the written element type, where it was cast."""
        if self._dtype is None:
            return data
        body: dict[str, Any] = json.loads(data)
        key = "dtype" if "dtype" in body or "torch_dtype" not in body else "torch_dtype"
        body[key] = _TORCH_NAMES[self._dtype]
        return json.dumps(body, indent=2, ensure_ascii=False).encode() + b"\n"

    def _card(self, title: str) -> str:
        return model_card(
            title=title,
            commit=self._commit,
            recipe=self._recipe,
            base=self.base,
            library=self._library,
        )

    def _facts(self, ids: Mapping[str, ObjectId]) -> bytes:
        body = {
            "format": FORMAT,
            "commit": self._commit,
            "recipe": format_recipe(self._recipe),
            "recipe_id": recipe_id(self.normal),
            "base": {
                "source": public_source(self.base),
                "revision": self.base.revision,
                "snapshot": self.base.snapshot,
            },
            "dtype": self._dtype,
            "versions": self._versions(),
            "tensors": dict(sorted(ids.items())),
        }
        return json.dumps(body, indent=1, ensure_ascii=False).encode() + b"\n"

    def _cast(self, spec: TensorSpec) -> TensorSpec:
        cast = self._dtype is not None and spec.dtype in FLOATING
        return TensorSpec(self._dtype or spec.dtype, spec.shape) if cast else spec

    def _refuse_quantized(self) -> None:
        """Refuse arithmetic on weights that mean nothing without their scales."""
        combined = [name for name, a in self.plan.actions.items() if isinstance(a, Combine)]
        if not combined and self._dtype is None:
            return
        if self._source_config().get("quantization_config"):
            raise CannotCombine(
                "the model is quantized: its weights can be copied and restored, not added up",
                hint="use the unquantized model as base, and quantize the checkout",
            )


def _verify(folder: Path, ids: Mapping[str, ObjectId]) -> None:
    written = ModelDirectory.open(folder)
    for name, identity in ids.items():
        with written.opened(name) as content:
            found = elements_id(written.entries[name].spec, content)
        if found != identity:
            raise WrongBytes(f"tensor {name} was written, but other bytes were read back")
