"""Every line is right, or named with what is wrong."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvc.dialogues.problems import BadRows
from tvc.dialogues.rows import Message, Row, guided, read_rows, row_from, stripped
from tvc.domain.errors import InputError


def said(role: str, content: object, **rest: object) -> dict[str, object]:
    return {"role": role, "content": content, **rest}


HELLO = [said("user", "hello"), said("assistant", "hi")]


def test_the_three_formats(write_lines) -> None:
    path = write_lines(
        {"messages": [said("system", "be kind"), *HELLO]},
        {"prompt": "one two", "completion": " three"},
        {"prompt": [said("user", "hello")], "completion": [said("assistant", "hi")]},
        {"prompt": [said("user", "hello")], "completion": "hi"},
        {"context": [said("user", "hello")], "decision": ["hi", "good day"]},
        {"context": "hello", "decision": "hi"},
    )
    found = read_rows(path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    hello, hi = Message("user", "hello"), Message("assistant", "hi")
    expected = [
        ((Message("system", "be kind"), hello), (hi,)),
        ("one two", (" three",)),
        ((hello,), (hi,)),
        ((hello,), (hi,)),
        ((hello,), (hi, Message("assistant", "good day"))),
        ("hello", ("hi",)),
    ]
    assert [(row.context, row.decisions) for row in found.rows] == expected
    assert [row.source for row in found.rows] == [f"{path}:{n}" for n in range(1, 7)]


def test_marked_messages_are_each_trained_on() -> None:
    messages = [
        said("user", "a"),
        said("assistant", "b", train=True),
        said("user", "c"),
        said("assistant", "d", train=False),
        said("user", "e"),
        said("assistant", "f", train=True),
    ]
    rows = row_from({"messages": messages}, "x:1")
    assert [row.decisions[0].content for row in rows] == ["b", "f"]
    assert [len(row.context) for row in rows] == [1, 5]


def test_instructions_are_marked_in_three_ways() -> None:
    ways = [
        {"messages": [said("guidance", "be brief"), *HELLO]},
        {"messages": HELLO, "guidance": "be brief"},
        {"messages": [said("system", "be brief", strip=True), *HELLO]},
    ]
    for way in ways:
        (row,) = row_from(way, "x:1")
        assert row.is_instructed
        shown = guided(row)
        assert [(each.role, each.content) for each in shown.context] == [
            ("system", "be brief"),
            ("user", "hello"),
        ]
        bare = stripped(row)
        assert bare.context == (Message("user", "hello"),)
        assert not bare.is_instructed
        assert bare.decisions == row.decisions
    (row,) = row_from({"messages": HELLO}, "x:1")
    assert guided(row) == stripped(row) == row


def test_guidance_joins_the_system_message_and_plain_text() -> None:
    value = {"messages": [said("system", "be kind"), *HELLO], "guidance": "be brief"}
    (row,) = row_from(value, "x:1")
    assert guided(row).context[0] == Message("system", "be kind\n\nbe brief")
    plain = Row("hello", ("hi",), "x:1", guidance="be brief")
    assert guided(plain).context == "be brief\n\nhello"
    assert stripped(plain).context == "hello"


def test_responses_may_be_missing_where_they_are_generated(write_lines) -> None:
    path = write_lines(
        {"messages": [said("user", "hello")]},
        {"prompt": "hello"},
        {"context": [said("user", "hello")], "guidance": "be brief"},
    )
    assert [row.decisions for row in read_rows(path, responses=False).rows] == [(), (), ()]
    with pytest.raises(BadRows) as caught:
        read_rows(path)
    assert len(caught.value.problems) == 3


def test_tools_and_calls_reach_the_template() -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
    value = {
        "messages": [
            said("user", "look"),
            {"role": "assistant", "tool_calls": [call]},
            said("tool", "blue", name="look"),
            said("assistant", "it is blue"),
        ],
        "tools": [{"type": "function", "function": {"name": "look"}}],
    }
    (row,) = row_from(value, "x:1")
    assert row.context[1].for_template == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert row.context[2].for_template == {"role": "tool", "content": "blue", "name": "look"}
    assert row.tools == tuple(value["tools"])


BAD = [
    (b"", "the line is empty"),
    (b"{", "not JSON"),
    (b"[1]", "not a JSON object"),
    (b'{"prompt": "\xff", "completion": "b"}', "not JSON"),
    (b'{"prompt": "a", "prompt": "b", "completion": "c"}', "has the key 'prompt' twice"),
    (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested too deep"),
    (b'{"prompt": "' + b"a" * (17 << 20) + b'"}', "longer than 16 MiB"),
    ({}, "has neither messages, nor prompt"),
    ({"text": "hello"}, "has neither messages, nor prompt"),
    ({"messages": HELLO, "mesages": []}, "has the key 'mesages', which is none of"),
    ({"prompt": "a", "completion": "b", "decision": "c"}, "has the key 'decision'"),
    ({"prompt": "a"}, "has prompt and no completion"),
    ({"messages": []}, "messages is an empty list"),
    ({"messages": {}}, "messages is not a list"),
    ({"messages": ["hello"]}, "message 1 of messages is not an object"),
    ({"messages": [said("human", "a")]}, 'its role is "human", which is none of'),
    ({"messages": [{"content": "a"}]}, "its role is missing"),
    ({"messages": [said("user", 5)]}, "the content of message 1 of messages is not a string"),
    ({"messages": [{"role": "user"}]}, "the content of message 1 of messages is missing"),
    ({"messages": [said("user", " ")]}, "the content of message 1 of messages is empty"),
    ({"messages": [said("user", "a", weight=1)]}, "has the unknown key 'weight'"),
    ({"messages": [said("user", "a", train="yes")]}, "train of message 1"),
    ({"messages": [said("user", "a")]}, "no message is the assistant's"),
    ({"messages": [*HELLO, said("user", "b")]}, "ends with a message of the user's"),
    ({"messages": [said("assistant", "a")]}, "nothing stands before what is trained on"),
    ({"messages": [said("user", "a", train=True)]}, "is the user's: none to train on"),
    (
        {"messages": [said("user", "a"), said("assistant", "b", train=False)]},
        "no message is trained on",
    ),
    ({"messages": [said("user", "a"), said("assistant", "b", strip=True)]}, "and to be stripped"),
    ({"messages": [said("guidance", "a")]}, "holds guidance and nothing else"),
    ({"prompt": "a", "completion": ["b"]}, "completion is not a string"),
    ({"prompt": [said("user", "a")], "completion": HELLO}, "not one message of the assistant's"),
    ({"context": "a", "decision": []}, "decision is an empty list"),
    ({"context": "a", "decision": ["b", ""]}, "decision 2 is empty"),
    ({"context": "a", "decision": ["b", 3]}, "decision 2 is not a string"),
    ({"context": "", "decision": "b"}, "context is empty"),
    ({"context": "a\ud800", "decision": "b"}, "half a character"),
    ({"messages": HELLO, "guidance": 3}, "guidance is not a string"),
    ({"messages": HELLO, "tools": ["x"]}, "tools is not a list of objects"),
]


@pytest.mark.parametrize(("line", "words"), BAD, ids=[words[:40] for _, words in BAD])
def test_a_bad_line_is_named(write_lines, line, words: str) -> None:
    path = write_lines({"messages": HELLO}, line, {"messages": HELLO})
    with pytest.raises(BadRows) as caught:
        read_rows(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


def test_all_bad_lines_are_reported_at_once(write_lines) -> None:
    path = write_lines(*([{"messages": HELLO}, {}] * 30))
    with pytest.raises(BadRows) as caught:
        read_rows(path)
    lines = str(caught.value).split("\n")
    assert len(lines) == 21
    assert lines[19].startswith(f"{path}:40: ")
    assert lines[20] == "and 10 more bad rows"
    assert caught.value.hint == "30 of 60 rows are bad"


def test_no_file_and_an_empty_one_are_refused(write_lines, tmp_path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="is empty"):
        read_rows(write_lines())
    with pytest.raises(InputError, match="Is a directory"):
        read_rows(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "messages",
                    "prompt",
                    "completion",
                    "role",
                    "content",
                    "train",
                    "decision",
                    "context",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["messages", "prompt", "completion", "context", "decision", "guidance", "tools"]
        ),
        json_values,
        max_size=3,
    )
)
def test_whatever_a_line_holds_it_is_rows_or_an_error(value) -> None:
    try:
        rows = row_from(json.loads(json.dumps(value)), "x:1")
    except BadRows:
        pass
    else:
        assert rows
        for row in rows:
            assert row.context
            assert row.decisions


def test_what_has_no_end_is_not_read_to_it(write_lines):
    with pytest.raises(InputError, match="is a device"):
        read_rows(Path("/dev/zero"))
    with pytest.raises(BadRows) as caught:
        read_rows(write_lines(*[b"{"] * 1500))
    assert len(caught.value.problems) == 1000
