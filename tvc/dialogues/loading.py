"""Loads a model folder for generation and training: transformers' own classes, no code of others.

The folder is opened as tvc opens models first, so that headers, links and pickles are checked
before transformers sees them. Absent: where the folder comes from.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from tvc.domain.errors import InputError, TvcError
from tvc.domain.names import printable
from tvc.models.directory import ModelDirectory

__all__ = ["CannotLoad", "Loaded", "load_model", "load_tokenizer", "quiet"]

_SHOWN: Final = 3
_ONLY_THIS: Final[Mapping[str, Any]] = {"local_files_only": True, "trust_remote_code": False}


class CannotLoad(InputError):
    """A folder is not a causal language model that transformers loads whole."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory.

    Args:
        model: In evaluation mode, with SDPA attention where it has it.
        tokenizer: With an id for padding.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_model(folder: Path, *, dtype: torch.dtype | None = None) -> Loaded:
    """Load a causal language model and its tokenizer from a folder.

    Args:
        folder: A model directory; nothing is fetched from elsewhere.
        dtype: Element type of the weights in memory; None for that of config.json.

    Raises:
        CannotLoad: There is no tokenizer, no causal language model for it, its own code would have
            to run, or weights would be left as they were drawn at random.
        NotAModel: It is no model directory.
    """
    ModelDirectory.open(folder)
    automatic: Any = AutoModelForCausalLM  # its signatures are decorators', which say nothing
    with quiet(), _explained(folder):
        tokenizer = _tokenizer(folder)
        model, found = automatic.from_pretrained(
            folder,
            dtype=dtype or "auto",
            use_safetensors=True,
            output_loading_info=True,
            **_ONLY_THIS,
        )
    _check_filled(folder, found)
    return Loaded(model.eval(), tokenizer)


def load_tokenizer(folder: Path) -> tuple[PreTrainedTokenizerBase, tuple[int, ...]]:
    """Load a model's tokenizer without its weights.

    Returns:
        The tokenizer, with an id for padding, and the ids that end a turn by the model's own word
        (generation_config.json).

    Raises:
        CannotLoad: There is none.
        NotAModel: It is no model directory.
    """
    ModelDirectory.open(folder)
    with quiet(), _explained(folder):
        tokenizer = _tokenizer(folder)
        ends: object = None
        if (folder / "generation_config.json").is_file():
            config: Any = GenerationConfig
            ends = config.from_pretrained(folder, **_ONLY_THIS).eos_token_id
    several = cast("list[object]", ends) if isinstance(ends, list) else [ends]
    return tokenizer, tuple(each for each in several if isinstance(each, int))


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    automatic: Any = AutoTokenizer
    tokenizer: PreTrainedTokenizerBase = automatic.from_pretrained(folder, **_ONLY_THIS)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise CannotLoad(
                f"the tokenizer in {folder} has neither a padding nor an end-of-sequence token",
                hint="name one in tokenizer_config.json",
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _check_filled(folder: Path, found: dict[str, Any]) -> None:
    wrong = sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
    if wrong or found["error_msgs"]:
        shown = ", ".join(map(printable, wrong[:_SHOWN])) or printable(found["error_msgs"][0])
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise CannotLoad(
            f"the weights in {folder} do not fill the model: {shown}{more}",
            hint="does config.json name the architecture that the weights are of?",
        )


@contextmanager
def _explained(folder: Path) -> Generator[None]:
    """Say in one line what transformers found wrong with a folder."""
    try:
        yield
    except TvcError:
        raise
    except Exception as error:  # whatever transformers' many configurations raise
        first = printable(str(error).strip().partition("\n")[0], limit=300)
        hint = "a causal language model with its tokenizer is needed, of an architecture that "
        raise CannotLoad(
            f"transformers cannot load {folder}: {first}", hint=f"{hint}transformers has"
        ) from error


@contextmanager
def quiet() -> Generator[None]:
    """Keep transformers' reports and bars off the terminal: what matters of them is raised."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
