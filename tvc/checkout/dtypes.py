"""What `tvc checkout --dtype` may be. Apart from the writing, so that help needs no torch."""

from typing import Final

__all__ = ["DTYPES"]

DTYPES: Final = {
    "bfloat16": "BF16",
    "bf16": "BF16",
    "float16": "F16",
    "fp16": "F16",
    "float32": "F32",
    "fp32": "F32",
    "float64": "F64",
}
"""Name → the element type that it means, as safetensors names it."""
