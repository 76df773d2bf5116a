"""Names that are one tensor: against what transformers itself ties."""

import pytest
import transformers

from tvc.models.ties import tied_names, ties_embeddings

_CLASSES = [
    transformers.LlamaForCausalLM,
    transformers.Qwen3ForCausalLM,
    transformers.GPT2LMHeadModel,
    transformers.GPTNeoXForCausalLM,
    transformers.OPTForCausalLM,
    transformers.BloomForCausalLM,
    transformers.BertForMaskedLM,
    transformers.RobertaForMaskedLM,
    transformers.T5ForConditionalGeneration,
    transformers.Gemma3ForConditionalGeneration,
    transformers.MambaForCausalLM,
    transformers.DistilBertForMaskedLM,
]


@pytest.mark.parametrize("cls", _CLASSES, ids=lambda cls: cls.__name__)
def test_the_ties_of_transformers_are_known(cls):
    expected = cls._tied_weights_keys
    names = {*expected, *expected.values(), "other.weight"}
    assert tied_names({"tie_word_embeddings": True}, names) == expected
    assert tied_names({"tie_word_embeddings": False}, names) == {}
    assert tied_names({}, names) == {}


def test_a_model_that_omits_the_head_has_no_pair():
    assert tied_names({"tie_word_embeddings": True}, ["model.embed_tokens.weight"]) == {}
    assert tied_names({"tie_word_embeddings": True}, ["lm_head.weight"]) == {}


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({"tie_word_embeddings": True}, True),
        ({"text_config": {"tie_word_embeddings": True}}, True),
        ({"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}}, False),
        ({"tie_word_embeddings": "yes"}, False),
        ({"text_config": None}, False),
        ({}, False),
    ],
)
def test_only_explicit_words_count(config, tied):
    assert ties_embeddings(config) is tied
