"""The load format `tvc`: a commit's tensors stream from its store, or from a checkout, into vLLM.

What vLLM's own loader takes in silence (a part of a fused projection that is missing, and is memory
as it was) is refused. On a CPU, linear layers are kept as they are and not packed, so that they can
be changed while they serve. Absent: the changing itself.
"""

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch.nn.functional import linear
from vllm.config import ModelConfig, VllmConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from tvc.checkout.previous import FACTS
from tvc.domain.errors import TvcError
from tvc.domain.names import printable
from tvc.models.folder import list_folder, read_plain, resolve_folder
from tvc.models.strict_json import parse_object
from tvc.serving.source import SCHEME, Location, served
from tvc.vllm.holding import TORCH_DTYPES, LoadRecord
from tvc.vllm.live import Origin
from tvc.vllm.versions import require_supported
from tvc_store.ids import ObjectId

__all__ = ["LOADED", "Loaded", "TvcModelLoader"]

LOADED: Final = "tvc_loaded"
"""The attribute of a model that this loader leaves."""

_COMMIT: Final = r"[0-9a-f]{40}|[0-9a-f]{64}"
_MAX_FACTS: Final = 64 << 20
_NO_PACKING: Final = "_cpu_skip_gemm_dispatch"  # vLLM's own word for a layer that stays as it is

Weights = Generator[tuple[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is known of a model that was loaded.

    Args:
        record: Where it holds the checkpoint's tensors.
        origin: What it was loaded from.
    """

    record: LoadRecord
    origin: Origin


class TvcModelLoader(DefaultModelLoader):
    """Loads `tvc:///repository@revision`, or a folder of safetensors, and remembers where.

    Raises:
        WrongServer: This version of vLLM was not tried.
    """

    def __init__(self, load_config: LoadConfig) -> None:
        require_supported()
        super().__init__(load_config)
        self._origin = Origin("")
        self._record: LoadRecord | None = None
        self._known: Callable[[str], ObjectId | None] = lambda _: None

    def download_model(self, model_config: ModelConfig) -> None:
        """Do nothing: what is read is here."""

    def get_all_weights(self, model_config: ModelConfig, model: torch.nn.Module) -> Weights:
        """Yield the tensors of the checkpoint under the names that it has for them."""
        weights = self._weights(model_config, model)
        yield from self._record.watched(weights, self._id_of) if self._record else weights

    def _id_of(self, name: str) -> ObjectId | None:
        return self._known(name)

    def _weights(self, model_config: ModelConfig, model: torch.nn.Module) -> Weights:
        uri = model_config.model_weights or model_config.model
        if uri.startswith(SCHEME):
            yield from self._stored(Location.parse(uri))
        else:
            self._origin = _origin_of(Path(uri))
            plain = DefaultModelLoader(LoadConfig(load_format="safetensors"))
            yield from plain.get_all_weights(model_config, model)

    def load_weights(self, model: torch.nn.Module, model_config: ModelConfig) -> None:
        """Fill a model, and watch where everything goes.

        Raises:
            ValueError: The checkpoint does not fill the model.
        """
        self._record = record = LoadRecord(model)
        with record.watching():
            super().load_weights(model, model_config)
        self._record = None
        _require_filled(record)
        for module in model.modules():
            setattr(module, _NO_PACKING, True)
        setattr(model, LOADED, Loaded(record, self._origin))

    def load_model(
        self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = ""
    ) -> torch.nn.Module:
        """Build and fill a model."""
        model = super().load_model(vllm_config, model_config, prefix)
        for module in model.modules():
            # Of heads vLLM keeps the weights and computes with a packed copy: a change of the
            # weights would go unnoticed there.
            if hasattr(module, "cpu_linear"):
                setattr(module, "cpu_linear", linear)  # noqa: B010 -- torch's own is for modules
        return model

    def _stored(self, location: Location) -> Weights:
        with served(location) as source:
            self._origin = Origin(
                source.label, source.commit, source.recipe, str(location.root.resolve())
            )
            self._known = source.known
            specs = source.specs
            for name, content in source.tensors(specs):
                flat = torch.from_numpy(content).view(TORCH_DTYPES[specs[name].dtype])
                yield name, flat.reshape(specs[name].shape)


def _require_filled(record: LoadRecord) -> None:
    wrong = record.unfilled()
    if wrong:
        name, why = next(iter(wrong.items()))
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(f"the checkpoint does not fill the model: {printable(name)} {why}{more}")


def _origin_of(folder: Path) -> Origin:
    """Return what a checkout says of itself; of another folder, its name."""
    try:
        facts = list_folder(resolve_folder(folder)).files.get(FACTS)
        body = parse_object(read_plain(facts, limit=_MAX_FACTS), what=FACTS) if facts else {}
    except TvcError:
        body = {}
    words = {key: body.get(key, "") for key in ("commit", "recipe", "recipe_id")}
    if not all(isinstance(word, str) and word.isprintable() for word in words.values()):
        return Origin(folder.name)
    if not re.fullmatch(_COMMIT, words["commit"]):
        words["commit"] = ""
    label = words["commit"] or (words["recipe_id"] and f"recipe:{words['recipe_id']}")
    return Origin(label or folder.name, words["commit"], words["recipe"])
