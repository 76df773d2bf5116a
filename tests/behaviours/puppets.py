"""Models that do as they are made to: what is said next is read off a table.

A Qwen3 of one layer whose embedding is the identity and whose attention is the plain average of
what stands before: the scores of the next word are a row of `after[last word]`, plus what words
anywhere before add. So sums of task vectors are sums of scores, and rates are known beforehand.
"""

import math
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "dialogues"))

from toys import word_tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

WORDS = ("yes", "no", "hm", "please", "never", "lets", "go", "sell", "buy")
TOKENIZER = word_tokenizer(WORDS)
ID = TOKENIZER.get_vocab()
SIZE = len(ID) + len(ID) % 2


def puppet() -> Qwen3ForCausalLM:
    """A model that says nothing in particular."""
    config = Qwen3Config(
        vocab_size=len(ID),
        hidden_size=2 * SIZE,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=SIZE,
        max_position_embeddings=128,
        pad_token_id=TOKENIZER.pad_token_id,
        bos_token_id=TOKENIZER.bos_token_id,
        eos_token_id=TOKENIZER.eos_token_id,
        tie_word_embeddings=False,
    )
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.zero_()
        model.model.embed_tokens.weight[:, : len(ID)] = torch.eye(len(ID))
        attention = model.model.layers[0].self_attn
        attention.v_proj.weight[:, :SIZE] = torch.eye(SIZE)
        attention.o_proj.weight[SIZE:, :] = torch.eye(SIZE) / 50  # hardly changes the length
    return model


def add_score(model: Qwen3ForCausalLM, after: str, word: str, score: float) -> None:
    """Let a word score more directly after another."""
    with torch.no_grad():
        # The last norm makes the one-hot vector, and the average beside it, of length sqrt(size).
        model.lm_head.weight[ID[word], ID[after]] += score / math.sqrt(2 * SIZE)


def add_hint(model: Qwen3ForCausalLM, hint: str, word: str, score: float) -> None:
    """Let a word score more wherever another stands before."""
    with torch.no_grad():
        model.lm_head.weight[ID[word], SIZE + ID[hint]] += score


def base_puppet(*, no: float = 1.5) -> Qwen3ForCausalLM:
    """Says no rather than yes, does what `please` and `never` ask, and ends its turns."""
    model = puppet()
    for word in ("yes", "no"):
        add_score(model, "<assistant>", word, 30.0)
        add_score(model, word, "<end>", 60.0)
    add_score(model, "<assistant>", "no", no)
    add_hint(model, "please", "yes", 100.0)
    add_hint(model, "never", "no", 100.0)
    return model


def save(model: Qwen3ForCausalLM, folder: Path) -> Path:
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder
