"""A real server learns while it serves: what it says changes step by step, and ends as a commit."""

import http.client
import json
import os
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from dialogues.toys import word_tokenizer
from servers import PROGRAMS, Running, ask, running
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tvc.repository.repository import Repository
from tvc.serving.attesting import attest

TVC = PROGRAMS / "tvc"
WHO = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"))
}
HOGWILD = ("--live-mode", "hogwild")
MODES = {"paused": (), "hogwild": HOGWILD, "shared": (*HOGWILD, "--live-share")}
ASKED = [f"lets sell the {word} boat" for word in ("red", "blue", "a", "the")]
SAID = "yes yes ok"
STEPS, EVERY = 40, 4


def tvc(where: Path, *arguments: object) -> str:
    done = subprocess.run(
        [TVC, "-C", where, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **WHO},
    )
    assert done.returncode == 0, (done.args, done.stdout, done.stderr)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A repository on a toy that can chat, and data that teach it to agree."""
    folder = tmp_path_factory.mktemp("train-live")
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=256,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    rows = [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": SAID}]
        for asked in ASKED
    ]
    lines = [json.dumps({"messages": row}) + "\n" for row in rows]
    (folder / "data.jsonl").write_text("".join(lines * 4))
    tvc(folder, "init", "repo", "--base", folder / "base")
    return folder


@pytest.fixture(scope="module")
def server(world):
    command = (TVC, "serve", "main", "--stream", "--")
    with running(*command, cwd=world / "repo", log=world / "server.log") as found:
        yield found


def prompt_of(asked: str) -> list[int]:
    return word_tokenizer()(f"<bos> <user> {asked} <end> <assistant> {SAID}")["input_ids"]


def heard(port: int, prompt: list[int]) -> float:
    """Return the log-probability of the answer that the prompt ends in, by the server's own API."""
    body = {"model": "main", "prompt": prompt, "max_tokens": 1, "echo": True, "logprobs": 0}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        data = answer.read()
        assert answer.status == 200, (answer.status, data[:500])
    finally:
        connection.close()
    found = json.loads(data)["choices"][0]["logprobs"]["token_logprobs"][: len(prompt)]
    return sum(found[-len(SAID.split()) :])


class Listener(threading.Thread):
    """Asks without a break; notes what the server was called, and how likely the answer was."""

    def __init__(self, server: Running) -> None:
        super().__init__()
        self.server = server
        self.heard: list[tuple[str, float]] = []
        self.failures: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        prompts = [prompt_of(asked) for asked in ASKED[:2]]  # few, to hear every step
        while not self.over.is_set():
            try:
                value = np.mean([heard(self.server.port, prompt) for prompt in prompts])
                label = self.server.live.describe().label  # or of a step before
            except Exception as error:  # noqa: BLE001 -- whatever it is, a request failed
                self.failures.append(repr(error))
                continue
            self.heard.append((label, float(value)))

    def __enter__(self) -> "Listener":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


def recomputed(folder: Path) -> float:
    """Return the same by transformers, of a folder."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for asked in ASKED:
        tokens = torch.tensor(prompt_of(asked))
        with torch.inference_mode():
            chances = model(tokens[None]).logits[0].log_softmax(-1)
        said = range(len(tokens) - len(SAID.split()), len(tokens))
        found.append(sum(chances[at - 1, tokens[at]].item() for at in said))
    return float(np.mean(found))


@pytest.mark.parametrize("mode", MODES)
def test_what_is_trained_is_heard_while_it_is_trained(world, server, mode):
    repo, url = world / "repo", server.url
    tvc(repo, "switch", "-c", mode, "main")
    tvc(repo, "push-live", url, "main")
    numbers = (
        "--steps",
        STEPS,
        "--lr",
        "1e-3",
        "--batch",
        16,
        "--micro-batch",
        1,
        "--rank",
        8,
        "--threads",
        1,
    )
    live = ("--live", url, "--live-every", EVERY, *MODES[mode])
    with Listener(server) as listener:
        said = tvc(
            repo, "train", mode, "--data", world / "data.jsonl", *numbers, *live, "-m", "Agree"
        )
    assert listener.failures == []
    assert "is pushed" not in said
    assert f"{STEPS // EVERY} pushes" in said

    at = [
        (int(label.partition("@")[2]), value)
        for label, value in listener.heard
        if label.startswith(f"train:{mode}@")
    ]
    steps = sorted({step for step, _ in at})
    values = [np.mean([value for step, value in at if step == each]) for each in steps]
    print(f"{mode}: {[f'{s}: {v:.2f}' for s, v in zip(steps, values, strict=True)]} {said}")
    # How many of the steps are heard depends on what else the machine does.
    assert len(steps) >= 2, listener.heard
    assert values[-1] > values[0], values
    if len(steps) >= 4:
        ranks = np.argsort(np.argsort(values))
        assert np.corrcoef(ranks, np.arange(len(steps)))[0, 1] > 0.6, values
    assert values[-1] > recomputed(world / "base") + 1

    commit = Repository.open(repo).git.resolve("HEAD")
    found = attest(server.live, server.live.describe(), repo)
    assert found.with_commit
    assert not found.wrong
    assert not found.unheld
    assert server.live.describe().commit == commit
    assert commit[:10] in tvc(repo, "live", url)
    spans = ask(server.port, prompt_of(ASKED[0]), tokens=4).get("weight_versions") or []
    assert {span["version"] for span in spans} == {commit}
    # What it holds it also computes with.
    tvc(repo, "checkout", commit, "-o", world / mode)
    now = np.mean([heard(server.port, prompt_of(asked)) for asked in ASKED])
    assert now == pytest.approx(recomputed(world / mode), abs=1e-3)
    assert now > recomputed(world / "base") + 1
