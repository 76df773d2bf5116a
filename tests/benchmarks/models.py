"""Models to measure with: bf16 weights in the shape of Llama, and fine-tunes of them.

    python models.py base FOLDER SIZE
    python models.py tuned BASE FOLDER STEP SEED

Weights are normal, with a scale for each row. A fine-tune moves every weight by a normal step with
a scale for each row and for each column, since that is what training leaves behind: at a step of
1.3e-4 three of ten bf16 weights stay as they were, the distance of the others has an entropy of 3.9
bits and 3.4 given the base's exponent, as after 300 steps of training at a learning rate of 1e-5.

Written block by block, whatever the size. Runs as a process of its own: the kernel counts the
memory of a process that starts a command as the command's own peak.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["SIZES", "Llama", "main", "make_base", "make_tuned"]

_BLOCK: Final = 1 << 20
_SHARD: Final = 5_000_000_000
_SIGMA: Final = 0.02
_ROW_SPREAD: Final = 0.25
_STEP_SPREAD: Final = 0.45

Draw = Callable[[str, tuple[int, ...]], Iterator[NDArray[np.uint16]]]
"""Given a tensor's name and shape, its bf16 patterns, in blocks of whole rows."""


@dataclass(frozen=True, slots=True)
class Llama:
    """The numbers of a configuration that decide about shapes; all of them numbers of elements."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = False

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return names and shapes of all tensors, as transformers has them."""
        hidden, wide = self.hidden, self.intermediate
        kv = hidden // self.heads * self.kv_heads
        layer = {
            "input_layernorm": (hidden,),
            "mlp.down_proj": (hidden, wide),
            "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden),
            "post_attention_layernorm": (hidden,),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.v_proj": (kv, hidden),
        }
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, hidden)}
        for number in range(self.layers):
            found |= {
                f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()
            }
        found["model.norm.weight"] = (hidden,)
        if not self.tied:
            found["lm_head.weight"] = (self.vocabulary, hidden)
        return found

    def config(self) -> dict[str, Any]:
        """Return config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "rms_norm_eps": 1e-05,
            "torch_dtype": "bfloat16",
        }


SIZES: Final[Mapping[str, Llama]] = {
    "tiny": Llama(256, 4, 704, 8, 2, 2000),
    "50m": Llama(512, 12, 1408, 8, 2, 16000),
    "256m": Llama(1024, 16, 2816, 16, 4, 32000),
    "1.1b": Llama(2048, 22, 5632, 32, 4, 32000),
    "3b": Llama(3072, 28, 8192, 24, 8, 128256, tied=True),
}
"""By number of weights: 3.4 million, 50 million, 246 million, 1.1 and 3.2 thousand million."""


def make_base(folder: Path, shape: Llama) -> None:
    """Write a model folder of random weights."""

    def draw(name: str, extents: tuple[int, ...]) -> Iterator[NDArray[np.uint16]]:
        generator = _generator(0, name)
        for start, stop, width in _rows(extents):
            weights = generator.standard_normal((stop - start, width), dtype=np.float32)
            if len(extents) == 1:
                weights = 1 + np.float32(0.1) * weights
            else:
                scale = generator.standard_normal((stop - start, 1), dtype=np.float32)
                weights *= np.float32(_SIGMA) * np.exp(np.float32(_ROW_SPREAD) * scale)
            yield _to_bf16(weights)

    _write(folder, json.dumps(shape.config(), indent=2), shape.shapes(), draw)


def make_tuned(base: Path, folder: Path, *, step: float, seed: int) -> None:
    """Write a fine-tune of a base that `make_base` wrote.

    Args:
        base: Its folder.
        folder: Where to write.
        step: Typical size of what is added to a weight.
        seed: Another one gives another fine-tune.
    """
    places = _places(base)

    def draw(name: str, extents: tuple[int, ...]) -> Iterator[NDArray[np.uint16]]:
        generator = _generator(seed, name)
        path, offset = places[name]
        width = extents[-1]
        columns = _scales(generator, (1, width))
        with path.open("rb") as file:
            for start, stop, _ in _rows(extents):
                file.seek(offset + 2 * start * width)
                count = (stop - start) * width
                patterns = np.fromfile(file, np.uint16, count).reshape(-1, width)
                moved = generator.standard_normal(patterns.shape, dtype=np.float32)
                moved *= np.float32(step) * columns
                moved *= _scales(generator, (stop - start, 1))
                moved += (patterns.astype(np.uint32) << 16).view(np.float32)
                yield _to_bf16(moved)

    _write(folder, (base / "config.json").read_text(), _shapes(base), draw)


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64([seed, *name.encode()]))


def _scales(generator: np.random.Generator, extents: tuple[int, int]) -> NDArray[np.float32]:
    drawn = generator.standard_normal(extents, dtype=np.float32)
    return np.exp(np.float32(_STEP_SPREAD) * drawn)


def _rows(extents: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Yield first row, last row and width of blocks; a vector is one row."""
    height, width = extents if len(extents) == 2 else (1, extents[0])
    step = max(1, _BLOCK // width)
    for start in range(0, height, step):
        yield start, min(start + step, height), width


def _to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to nearest, ties to even; there are no infinities and NaNs here."""
    bits = values.view(np.uint32)
    bits = bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))
    return (bits >> 16).astype(np.uint16)


def _write(folder: Path, config: str, shapes: Mapping[str, tuple[int, ...]], draw: Draw) -> None:
    """Write a folder of shards, whole or not at all."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    (unfinished / "config.json").write_text(config)
    shards = _shards(shapes)
    for number, names in enumerate(shards, 1):
        name = _shard_name(number, len(shards))
        with (unfinished / name).open("xb") as file:
            file.write(_header({tensor: shapes[tensor] for tensor in names}))
            for tensor in names:
                _write_blocks(file, draw(tensor, shapes[tensor]))
            file.flush()
            os.fsync(file.fileno())
    if len(shards) > 1:
        places = {
            tensor: _shard_name(number, len(shards))
            for number, names in enumerate(shards, 1)
            for tensor in names
        }
        total = sum(_nbytes(shape) for shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (unfinished / "model.safetensors.index.json").write_text(json.dumps(index))
    unfinished.rename(folder)


def _write_blocks(file: BinaryIO, blocks: Iterator[NDArray[np.uint16]]) -> None:
    for block in blocks:
        file.write(block.data)


def _nbytes(shape: tuple[int, ...]) -> int:
    return 2 * int(np.prod(shape))


def _shards(shapes: Mapping[str, tuple[int, ...]]) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        if size + _nbytes(shape) > _SHARD:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += _nbytes(shape)
    return shards


def _shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        stop = start + _nbytes(shape)
        table[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _tables(folder: Path) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            yield path, 8 + length, json.loads(file.read(length))


def _places(folder: Path) -> dict[str, tuple[Path, int]]:
    return {
        name: (path, begin + facts["data_offsets"][0])
        for path, begin, table in _tables(folder)
        for name, facts in table.items()
        if name != "__metadata__"
    }


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(facts["shape"])
        for _, _, table in _tables(folder)
        for name, facts in table.items()
        if name != "__metadata__"
    }


def main(command: str, first: str, second: str, *more: str) -> None:
    """Run what the command line asks for."""
    if command == "base":
        make_base(Path(first), SIZES[second])
    else:
        make_tuned(Path(first), Path(second), step=float(more[0]), seed=int(more[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
