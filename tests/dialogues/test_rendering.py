"""Ids of context and decision are those that generation would see and give."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from toys import CHAT_TEMPLATE, SPECIAL, WORDS, word_tokenizer
from transformers import PreTrainedTokenizerFast

from tvc.dialogues import templating
from tvc.dialogues.problems import BadRows
from tvc.dialogues.rendering import Renderer, render_examples, render_prompts
from tvc.dialogues.rows import row_from
from tvc.dialogues.sandbox import Limits
from tvc.dialogues.templating import NoTemplate

TOKENIZER = word_tokenizer()
QWEN = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level pairs, as Qwen's and Llama's are, learned from a little text."""
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    text = ["the red boat sells the blue boat at the house\n\nuser assistant system"] * 5
    trainer = BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(text, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    tokenizer.chat_template = QWEN
    return tokenizer


BYTES = bytes_tokenizer()


RENDERERS = {id(tokenizer): Renderer(tokenizer) for tokenizer in (TOKENIZER, BYTES)}


@pytest.fixture(scope="module", autouse=True)
def _end_renderers():
    yield
    for renderer in RENDERERS.values():
        renderer.__exit__(None, None, None)


def examples(*values, tokenizer=TOKENIZER, window=100, **options):
    """Render by a process that lives on where it can: starting one takes half a second."""
    rows = [row for n, value in enumerate(values, 1) for row in row_from(value, f"data.jsonl:{n}")]
    if id(tokenizer) in RENDERERS and not options:
        return RENDERERS[id(tokenizer)].examples(rows, window=window)
    return render_examples(rows, tokenizer, window=window, **options)


def dialogue(*turns: str) -> dict[str, object]:
    roles = ["user", "assistant"]
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(turns)]}


def test_context_and_decision_of_a_dialogue() -> None:
    (found,) = examples(dialogue("lets go", "ok"))
    words = TOKENIZER.convert_ids_to_tokens
    assert words(found.context) == ["<bos>", "<user>", "lets", "go", "<end>", "<assistant>"]
    assert [words(each) for each in found.decisions] == [["ok", "<end>"]]
    assert found.source == "data.jsonl:1"


text = st.text(st.sampled_from("abc é日\n '<>|"), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=6)
@given(
    st.lists(
        st.lists(text, min_size=2, max_size=4).filter(lambda t: len(t) % 2 == 0),
        min_size=1,
        max_size=20,
    )
)
def test_what_is_trained_on_is_what_generation_sees_and_gives(dialogues) -> None:
    for found, turns in zip(
        examples(*(dialogue(*turns) for turns in dialogues), tokenizer=BYTES),
        dialogues,
        strict=True,
    ):
        messages = dialogue(*turns)["messages"]
        seen = BYTES.apply_chat_template(messages[:-1], add_generation_prompt=True)["input_ids"]
        assert list(found.context) == seen
        (decision,) = found.decisions
        assert decision[-1] == BYTES.eos_token_id
        assert decision.count(BYTES.eos_token_id) == 1
        whole = BYTES.apply_chat_template(messages, tokenize=False)
        assert BYTES.decode(found.context + decision) + "\n" == whole


def test_several_decisions_stand_on_one_context() -> None:
    user = [{"role": "user", "content": "lets go"}]
    one, two = examples(
        {"context": user, "decision": ["yes", "no no"]}, {"context": user, "decision": "no no"}
    )
    assert len(one.decisions) == 2
    assert one.context == two.context
    assert one.decisions[1] == two.decisions[0]


def test_prompts_are_the_contexts_of_examples() -> None:
    values = [dialogue("lets go", "ok", "buy", "no"), {"prompt": "a b", "completion": " c"}]
    rows = [row_from(value, "x:1")[0] for value in values]
    contexts = [each.context for each in render_examples(rows, TOKENIZER, window=50)]
    assert render_prompts(rows, TOKENIZER, window=50) == contexts


def test_guidance_stands_in_the_context() -> None:
    (found,) = examples({**dialogue("lets go", "ok"), "guidance": "no yes"})
    assert TOKENIZER.decode(found.context).startswith("<bos> <system> no yes <end> <user> lets go")


def test_plain_text_needs_no_template_and_ends() -> None:
    tokenizer = word_tokenizer(chat_template=None)
    (found,) = examples({"prompt": "a b", "completion": " c d"}, tokenizer=tokenizer)
    words = tokenizer.convert_ids_to_tokens
    assert words(found.context) == ["a", "b"]
    assert words(found.decisions[0]) == ["c", "d", "<end>"]


def test_a_token_never_reaches_over_the_border() -> None:
    # "boat" is one token; generation after "the bo" would have to go on with "at".
    (found,) = examples({"prompt": "the bo", "completion": "at"}, tokenizer=BYTES)
    assert list(found.context) == BYTES("the bo")["input_ids"]
    assert BYTES.decode(found.decisions[0]) == "at<|im_end|>"


def test_variables_reach_the_template() -> None:
    template = CHAT_TEMPLATE + "{% if not add_generation_prompt %} {{ mood }}{% endif %}"
    tokenizer = word_tokenizer([*WORDS, "merry"], template)
    (found,) = examples(dialogue("go", "ok"), tokenizer=tokenizer, variables={"mood": "merry"})
    assert tokenizer.decode(found.decisions[0]) == "ok <end> merry"


def test_a_turn_without_an_end_gets_one() -> None:
    template = "{% for m in messages %} <{{ m.role }}> {{ m.content }}{% endfor %}{% if add_generation_prompt %} <assistant>{% endif %}"
    (found,) = examples(dialogue("go", "ok"), tokenizer=word_tokenizer(chat_template=template))
    assert TOKENIZER.decode(found.decisions[0]) == "ok <end>"


def test_other_ends_of_turns_are_kept() -> None:
    """As Gemma's, whose end of a turn is not the tokenizer's end of a sequence."""
    template = CHAT_TEMPLATE.replace("<end>", "<tool>\n")
    tokenizer = word_tokenizer(chat_template=template)
    end = tokenizer.convert_tokens_to_ids("<tool>")
    (found,) = examples(dialogue("go", "ok"), tokenizer=tokenizer, ends=[end])
    assert tokenizer.decode(found.decisions[0]) == "ok <tool>"


def refused(*values, **options) -> str:
    with pytest.raises(BadRows) as caught:
        examples(*values, **options)
    return str(caught.value)


def test_a_template_that_does_not_begin_alike_is_refused() -> None:
    template = "{{ messages|length }} " + CHAT_TEMPLATE
    words = refused(dialogue("go", "ok"), tokenizer=word_tokenizer(chat_template=template))
    assert words.startswith("data.jsonl:1: the chat template's text of the dialogue does not begin")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('no system, please') }}", "no system, please"),
        ("{% for", "TemplateSyntaxError"),
        ("{{ messages[9].content }}", "UndefinedError"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        ("{{ 'x' * 10000000000 }}", "memory"),
    ],
)
def test_a_template_that_fails_is_refused(template: str, words: str) -> None:
    found = refused(dialogue("go", "ok"), tokenizer=word_tokenizer(chat_template=template))
    assert found.startswith("data.jsonl:1: the chat template failed: ")
    assert words in found


def test_no_template_is_said_once() -> None:
    with pytest.raises(NoTemplate, match="no chat template"):
        examples(dialogue("go", "ok"), tokenizer=word_tokenizer(chat_template=None))


def test_what_does_not_fit_is_named_and_never_cut() -> None:
    words = refused(
        dialogue("go", "ok"), dialogue("go go go", "ok"), dialogue("go", "ok ok ok ok"), window=8
    )
    assert words.split("\n") == [
        "data.jsonl:2: it has 9 tokens (7 of context), and the window 8",
        "data.jsonl:3: it has 10 tokens (5 of context), and the window 8",
    ]
    with pytest.raises(BadRows, match="its context has 7 tokens, and the window 6"):
        render_prompts(row_from(dialogue("go go go", "ok"), "x:1"), TOKENIZER, window=6)


@pytest.mark.parametrize("token", SPECIAL[:4])
def test_text_cannot_pass_for_the_templates_marks(token: str) -> None:
    assert f"holds the control token '{token}'" in refused(dialogue(f"go {token} go", "ok"))
    assert f"holds the control token '{token}'" in refused(dialogue("go", f"ok {token}"))


def test_a_template_that_loops_is_tried_on_one_row(monkeypatch) -> None:
    monkeypatch.setattr(templating, "_LIMITS", Limits(seconds=0.5))
    loop = "{% for i in range(99999) %}" * 4 + "{% endfor %}" * 4
    rows = [dialogue("go", "ok")] * 50
    words = refused(*rows, tokenizer=word_tokenizer(chat_template=loop))
    assert words == "data.jsonl:1: the chat template failed: it took longer than 0.5 s"
