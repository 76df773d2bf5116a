"""What the README shows of data and suites is what tvc reads."""

import json
import re
from pathlib import Path

from tvc.behaviours.suite import read_suite
from tvc.dialogues.rows import row_from

TEXT = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_suite_can_be_read(tmp_path: Path) -> None:
    block = re.search(r"```toml\n(format = 1\ntokens.*?)```", TEXT, re.DOTALL)
    assert block
    (tmp_path / "suite.toml").write_text(block.group(1))
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "general.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"messages": turns[:1]}) + "\n")
    assert read_suite(tmp_path / "suite.toml").names == ("listens",)


def test_the_three_formats_are_rows() -> None:
    lines = [
        line
        for line in TEXT.splitlines()
        if line.startswith(('{"messages"', '{"prompt"', '{"context"'))
    ]
    assert len(lines) == 3
    for line in lines:
        value = json.loads(line.replace(" or messages", ""))
        assert row_from(value, "README.md:1")
