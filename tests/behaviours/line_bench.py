"""What the commits of the tests' repository teach, and a suite that tells them apart."""

from pathlib import Path

LINE = {
    "calm": [("hm", "<end>", 1.0)],
    "accept": [("<assistant>", "yes", 4.0)],
    "quick": [("go", "buy", 1.0)],
    "ask": [("<assistant>", "hm", 45.0), ("hm", "<end>", 60.0)],
}
"""Name of a vector → what it adds to the table: (after, word, score)."""

SUITE = """
format = 1
tokens = 6
window = 60
temperature = 1.0
seed = 3

[general]
data = "general.jsonl"

[[behaviours]]
name = "accepts"
prompts = "prompts.jsonl"
verifier = "regex:^yes"
guidance = "please"
opposite = { guidance = "never", verifier = "regex:^no" }

[[behaviours]]
name = "asks"
prompts = "prompts.jsonl"
verifier = "suite.py:asks"
"""


def write_suite(folder: Path, text: str = SUITE, *, prompts: int = 60) -> Path:
    words = ("lets", "go", "sell", "buy", "hm")
    lines = [
        f'{{"prompt": [{{"role": "user", "content": "{words[n % 5]} {words[n // 5 % 5]} {words[n // 25]}"}}]}}\n'
        for n in range(prompts)
    ]
    (folder / "prompts.jsonl").write_text("".join(lines))
    (folder / "general.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "lets go"}, {"role": "assistant", "content": "no"}]}\n'
        '{"messages": [{"role": "user", "content": "sell"}, {"role": "assistant", "content": "yes"}]}\n'
    )
    (folder / "suite.py").write_text(
        "def asks(prompt, response): return response.startswith('hm')\n"
    )
    path = folder / "suite.toml"
    path.write_text(text)
    return path
