"""Writes a new LoRA adapter as PEFT and vLLM read one: two files, each made durable.

Absent on purpose: what the factors are, and writing again what was taken in
(`tvc.models.adapters.write_adapter`).
"""

from collections.abc import Mapping
from pathlib import Path

from tvc.models.writer import ModelWriter, Shard
from tvc_store.buffers import Buffer
from tvc_store.dtypes import TensorSpec
from tvc_store.durable import write_durably

__all__ = ["AdapterWriter"]


class AdapterWriter:
    """Writes a new adapter's folder: pairs of factors in any order, from any thread.

    Args:
        folder: An existing folder.
        pairs: Name of the base model's tensor, which ends in `.weight` → types and shapes of its
            factors: A (rank, in) and B (out, rank).
        config: Content of `adapter_config.json`.

    Raises:
        WriteFailed: The system refused.
        BadTensorName: A tensor's name is unsafe.
        UnsupportedFile: There are more factors than a file may hold.
    """

    def __init__(
        self, folder: Path, pairs: Mapping[str, tuple[TensorSpec, TensorSpec]], config: bytes
    ) -> None:
        specs = {
            key: spec
            for target, pair in sorted(pairs.items())
            for key, spec in zip(self._keys(target), pair, strict=True)
        }
        shard = Shard(
            "adapter_model.safetensors", tuple(specs), sum(spec.nbytes for spec in specs.values())
        )
        self._writer = ModelWriter(folder, [shard], specs)
        self._config = config
        self._folder = folder

    @staticmethod
    def _keys(target: str) -> tuple[str, str]:
        module = f"base_model.model.{target.removesuffix('.weight')}"
        return f"{module}.lora_A.weight", f"{module}.lora_B.weight"

    def write(self, target: str, down: Buffer, up: Buffer) -> None:
        """Write the bytes of one pair, each pair once.

        Raises:
            WriteFailed: The system refused.
        """
        for key, data in zip(self._keys(target), (down, up), strict=True):
            self._writer.write(key, data)

    def finish(self) -> None:
        """Check that all is written, write the configuration, and flush.

        Raises:
            WriteFailed: The system refused.
        """
        self._writer.finish()
        write_durably(self._folder / "adapter_config.json", [self._config])
