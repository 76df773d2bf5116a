"""Where a model in memory holds the tensors of its checkpoint: found by watching it being loaded.

vLLM fuses and renames (q, k and v into `qkv_proj`, experts into one tensor, an embedding padded to
a multiple of 64), by code of each model's own. Instead of a table of names for every model, the
copies that this code makes are watched: from which elements of which tensor of the checkpoint to
which elements of which parameter. What was changed on its way (exponentiated, quantized) has no
such copy, and is known not to be held as it is. Nothing here knows vLLM.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tvc_store.dtypes import TensorSpec
from tvc_store.ids import ObjectId, tensor_id

__all__ = ["TORCH_DTYPES", "Held", "LoadRecord", "NotHeld", "Piece", "content_id"]

TORCH_DTYPES: Final[dict[str, torch.dtype]] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""torch's element types by safetensors' names."""

_PADDED: Final = ("embed_tokens.weight", "lm_head.weight", "word_embeddings.weight", "wte.weight")
_NAMES: Final = {dtype: name for name, dtype in TORCH_DTYPES.items()}


class NotHeld(Exception):
    """A model does not hold a tensor as the checkpoint has it; the text says why."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements of a checkpoint's tensor, and the elements of a parameter that they were copied to.

    Args:
        parameter: Its name in the model.
        size: Extents of both.
        held: Offset and strides in the parameter, in elements, from its first.
        given: Offset and strides in the checkpoint's tensor.
    """

    parameter: str
    size: tuple[int, ...]
    held: tuple[int, tuple[int, ...]]
    given: tuple[int, tuple[int, ...]]


@dataclass(slots=True)
class Held:
    """A tensor of the checkpoint, as a model holds it.

    Args:
        spec: Type and shape in the checkpoint.
        pieces: Where its elements are.
        dtype: The element type that the model holds it in.
        id: What it should be there, by content: the checkpoint's tensor, cast to `dtype`; of what
            the model took nothing of, the checkpoint's.
    """

    spec: TensorSpec
    pieces: list[Piece] = field(default_factory=list[Piece])
    dtype: str = ""
    id: ObjectId | None = None

    @property
    def held_spec(self) -> TensorSpec:
        """Type and shape as the model holds it."""
        return TensorSpec(self.dtype, self.spec.shape)


def content_id(tensor: torch.Tensor) -> ObjectId:
    """Return a tensor's id, by its element type, shape and bytes."""
    plain = tensor.detach().contiguous().cpu()
    spec = TensorSpec(_NAMES[plain.dtype], tuple(plain.shape))
    return tensor_id(spec, plain.reshape(-1).view(torch.uint8).numpy())


class LoadRecord:
    """What was seen while a model was loaded.

    Args:
        model: It; its parameters are there, with whatever they hold.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self.tensors: dict[str, Held] = {}
        self._parameters = {
            tensor.untyped_storage().data_ptr(): (name, tensor.storage_offset())
            for name, tensor in _named_tensors(model)
            if tensor.numel()
        }
        self._given: dict[int, str] = {}

    def watched(
        self,
        tensors: Iterable[tuple[str, torch.Tensor]],
        known: Callable[[str], ObjectId | None] = lambda _: None,
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield tensors, to be loaded under `watching`, and take the ids that are not known yet.

        Args:
            tensors: Name and content of each.
            known: Gives the id of a tensor that was verified when it was read.
        """
        for name, tensor in tensors:
            spec = TensorSpec(_NAMES[tensor.dtype], tuple(tensor.shape))
            held = self.tensors[name] = Held(spec)
            # An address that was another tensor's before is this one's now. Should a stray copy be
            # taken for it all the same, its id is not what it has to be, and `check` finds that.
            self._given[tensor.untyped_storage().data_ptr()] = name
            yield name, tensor
            self._settle(held, tensor, known(name))

    def watching(self) -> "TorchDispatchMode":
        """Return the context in which the model is loaded."""
        return _Watch(self)

    def note_copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Note that elements were copied, if they are a checkpoint's and go into the model."""
        found = self._parameters.get(target.untyped_storage().data_ptr())
        name = self._given.get(source.untyped_storage().data_ptr())
        if found is None or name is None or target.shape != source.shape:
            return
        parameter, first = found
        piece = Piece(
            parameter,
            tuple(target.shape),
            (int(target.storage_offset() - first), target.stride()),
            (int(source.storage_offset()), source.stride()),
        )
        held = self.tensors[name]
        held.pieces.append(piece)
        held.dtype = _NAMES[target.dtype]

    def groups(self) -> list[list[str]]:
        """Return the checkpoint's tensors by parameters: those that share one stand together."""
        sharing: defaultdict[str, list[str]] = defaultdict(list)
        for name, held in sorted(self.tensors.items()):
            for parameter in sorted({piece.parameter for piece in held.pieces}):
                sharing[parameter].append(name)
        return sorted({tuple(names): list(names) for names in sharing.values()}.values())

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor as the model holds it now, in the checkpoint's shape, on the CPU.

        Raises:
            NotHeld: Its elements are not all there.
        """
        held = self._held(name)
        whole = torch.empty(held.spec.shape, dtype=TORCH_DTYPES[held.dtype])
        for piece in held.pieces:
            _part(whole, piece.size, piece.given).copy_(self._live(piece))
        return whole

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Put a tensor's elements where the model holds them, in place.

        Args:
            name: The checkpoint's.
            tensor: Of its shape, contiguous, in the type that the model holds.

        Raises:
            NotHeld: The model does not hold it so.
        """
        held = self._held(name)
        if TensorSpec(_NAMES[tensor.dtype], tuple(tensor.shape)) != held.held_spec:
            raise NotHeld(f"{name} is held as {held.held_spec.dtype} {list(held.spec.shape)}")
        for piece in held.pieces:
            self._live(piece).copy_(_part(tensor, piece.size, piece.given))

    def unfilled(self) -> dict[str, str]:
        """Return parameters of which the checkpoint filled only a part, and how much.

        Rows that pad an embedding to a round number are none.
        """
        filled: defaultdict[str, int] = defaultdict(int)
        for held in self.tensors.values():
            for piece in held.pieces:
                filled[piece.parameter] += torch.Size(piece.size).numel()
        wrong: dict[str, str] = {}
        for name, parameter in self._model.named_parameters():
            share = filled.get(name, parameter.numel()) / max(parameter.numel(), 1)
            padded = name.endswith(_PADDED)
            if share < 1 and not padded:
                wrong[name] = f"is filled to {share:.0%}"
        return wrong

    def check(self) -> dict[str, str]:
        """Read every tensor back; return those that are not held as they are, and why.

        What is returned here can be neither read nor written through this record.
        """
        wrong: dict[str, str] = {}
        for name, held in self.tensors.items():
            try:
                if content_id(self.read(name)) != held.id:
                    wrong[name] = "it is held in another form than the checkpoint's"
            except NotHeld as error:
                wrong[name] = str(error)
        return wrong

    def _held(self, name: str) -> Held:
        held = self.tensors.get(name)
        if held is None or not held.pieces:
            raise NotHeld("the model took nothing of it as it is")
        covered = sum(torch.Size(piece.size).numel() for piece in held.pieces)
        if covered != torch.Size(held.spec.shape).numel():
            raise NotHeld("the model took only a part of it")
        return held

    def _live(self, piece: Piece) -> torch.Tensor:
        module, _, last_name = piece.parameter.rpartition(".")
        live = getattr(self._model.get_submodule(module), last_name, None)
        offset, strides = piece.held
        last = offset + sum((n - 1) * s for n, s in zip(piece.size, strides, strict=True))
        if not isinstance(live, torch.Tensor) or not live.numel():
            raise NotHeld("its parameter was packed into another form")
        room = live.untyped_storage().nbytes() // live.element_size() - live.storage_offset()
        if last >= room and 0 not in piece.size:
            raise NotHeld("its parameter has another shape now")
        return live.detach().as_strided(piece.size, strides, live.storage_offset() + offset)

    @staticmethod
    def _settle(held: Held, tensor: torch.Tensor, known: ObjectId | None) -> None:
        """Take a tensor's id in the type that it is held in, once it was loaded."""
        held.dtype = held.dtype or held.spec.dtype
        cast = held.dtype != held.spec.dtype
        held.id = content_id(tensor.to(TORCH_DTYPES[held.dtype])) if cast or not known else known


class _Watch(TorchDispatchMode):
    """Tells a record of every copy."""

    def __init__(self, record: LoadRecord) -> None:
        super().__init__()
        self._record = record

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if func is torch.ops.aten.copy_.default:
            self._record.note_copy(args[0], args[1])
        return func(*args, **(kwargs or {}))


def _named_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _part(
    tensor: torch.Tensor, size: tuple[int, ...], place: tuple[int, tuple[int, ...]]
) -> torch.Tensor:
    return tensor.as_strided(size, place[1], place[0])
