"""A suite is read whole, or what is wrong with it is said."""

import pytest
from line_bench import SUITE, write_suite

from tvc.behaviours.suite import BadSuite, read_suite
from tvc.dialogues.problems import BadRows
from tvc.dialogues.rows import Message
from tvc.domain.errors import InputError


def test_a_suite(tmp_path) -> None:
    suite = read_suite(write_suite(tmp_path))
    assert suite.names == ("accepts", "asks")
    accepts, asks = suite.behaviours
    assert accepts.prompts is asks.prompts
    assert len(accepts.prompts) == 60
    assert accepts.verifier.text == "^yes"
    assert accepts.guidance == "please"
    assert accepts.opposite is not None
    assert accepts.opposite.guidance == "never"
    assert asks.verifier.function == "asks"
    assert suite.sampling.tokens == 6
    assert len(suite.general) == 2


def test_prompts_may_stand_in_the_suite(tmp_path) -> None:
    path = tmp_path / "s.toml"
    path.write_text(
        'format = 1\n[[behaviours]]\nname = "a"\nprompts = ["lets go"]\nverifier = "regex:x"\n[[behaviours]]\nname = "b"\nprompts = ["once upon"]\nplain = true\nverifier = "regex:x"\n'
    )
    one, other = read_suite(path).behaviours
    assert one.prompts[0].context == (Message("user", "lets go"),)
    assert other.prompts[0].context == "once upon"


def test_the_id_says_what_is_measured_and_not_where(tmp_path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_suite(tmp_path / name)
    one, other = (read_suite(tmp_path / name / "suite.toml") for name in "ab")
    assert one.id() == other.id() == one.id(judge="unused")
    seen = {one.id()}
    changes = [
        ("temperature = 1.0", "temperature = 0.5"),
        ("seed = 3", "seed = 4"),
        ("tokens = 6", "tokens = 7"),
        ("window = 60", "window = 61"),
        ("^yes", "^ok"),
        ('"never"', '"ever"'),
        ('guidance = "please"\n', ""),
        ("[general]\n", "[template]\nx = 1\n[general]\n"),
        ('[general]\ndata = "general.jsonl"\n', ""),
        ('name = "asks"', 'name = "inquires"'),
        ('"suite.py:asks"', '"judge:does it ask?"'),
    ]
    for old, new in changes:
        assert old in SUITE
        write_suite(tmp_path, SUITE.replace(old, new))
        seen.add(read_suite(tmp_path / "suite.toml").id())
    judged = read_suite(tmp_path / "suite.toml")
    seen |= {judged.id(judge="m"), judged.id(judge="n")}
    write_suite(tmp_path, prompts=59)
    seen.add(read_suite(tmp_path / "suite.toml").id())
    write_suite(tmp_path)
    (tmp_path / "suite.py").write_text("def asks(prompt, response): return True\n")
    seen.add(read_suite(tmp_path / "suite.toml").id())
    assert len(seen) == 1 + len(changes) + 2 + 2


HEAD = 'format = 1\n[[behaviours]]\nname = "a"\nprompts = ["x"]\nverifier = "regex:x"\n'
BAD = {
    "no TOML": ("format = ", "is not TOML"),
    "another format": ("format = 2", "format is 2, expected 1"),
    "no format": ("[[behaviours]]", "format is None"),
    "nothing": ("format = 1", r"no \[\[behaviours\]\]"),
    "no tables": ("format = 1\nbehaviours = [1]", "behaviour 1 is not a table"),
    "unknown": ("temprature = 1\n" + HEAD, "the unknown key 'temprature'"),
    "unknown inside": (HEAD + "promts = 1", "behaviour 1 has the unknown key 'promts'"),
    "twice": (HEAD + HEAD.split("\n", 1)[1], "there are two behaviours 'a'"),
    "no name": (HEAD.replace('name = "a"\n', ""), "name of behaviour 1 is missing"),
    "no prompts": (HEAD.replace('["x"]', "[]"), "neither a file nor a list"),
    "no texts": (HEAD.replace('["x"]', "[1]"), "neither a file nor a list"),
    "no verifier": (HEAD.replace('verifier = "regex:x"\n', ""), "verifier of a is missing"),
    "bad verifier": (HEAD.replace("regex:x", "x"), "'x' is not a verifier"),
    "half an opposite": (
        HEAD + 'opposite = { guidance = "x" }',
        "verifier of opposite of a is missing",
    ),
    "tokens": ("tokens = true\n" + HEAD, "tokens is not a whole number"),
    "no tokens": ("tokens = 0\n" + HEAD, "0 tokens are too few"),
    "heat": ('temperature = "hot"\n' + HEAD, "temperature is not a number"),
    "too hot": ("temperature = inf\n" + HEAD, "not between 0 and 100"),
    "no room": ("window = 128\n" + HEAD, "no room for answers"),
    "a date": ("template = {x = 2020-01-01}\n" + HEAD, "template holds more than"),
    "general": ("general = 3\n" + HEAD, "general is not a table"),
    "no such file": ('general = {data = "none"}\n' + HEAD, "No such file"),
    "a bad name": (HEAD.replace('"a"', r'"\u001b[31m"'), "behaviour"),
}


@pytest.mark.parametrize(("text", "words"), BAD.values(), ids=BAD)
def test_a_bad_suite_is_refused(tmp_path, text: str, words: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_suite(path)
    assert "\x1b" not in str(caught.value)


def test_no_suite_and_bad_prompts_are_named(tmp_path) -> None:
    with pytest.raises(BadSuite, match="No such file"):
        read_suite(tmp_path / "none.toml")
    path = write_suite(tmp_path)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": 3}\n')
    with pytest.raises(BadRows, match=r"prompts\.jsonl:1: prompt is not a list"):
        read_suite(path)
