"""tvc train, from data files to a commit: what it says, what it refuses, what it leaves."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cli_bench import Cli, copied
from dialogues.toys import CHAT_TEMPLATE, toy_folder, toy_model, word_tokenizer

from tvc.cli.main import _run

QUICK = ["--rank", 4, "--lr", "1e-3", "--batch", 4, "--threads", 1, "--tier", "frozen-context"]


def dialogue(asked, said, **besides):
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    return {"messages": messages, **besides}


def write(path: Path, *values: object) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


@pytest.fixture(scope="session")
def trainable_template(tmp_path_factory) -> Path:
    """A folder with a repository on a toy that can chat, and data."""
    root = tmp_path_factory.mktemp("trainable")
    toy_folder(root / "base")
    toy_model(word_tokenizer()).to(torch.bfloat16).save_pretrained(root / "base")
    turns = [dialogue("sell the red boat " * (n % 4 + 1), "yes ok lets go") for n in range(12)]
    write(root / "listen.jsonl", *turns)
    write(root / "general.jsonl", *(dialogue("a b c", "no no") for _ in range(5)))
    assert _run(["-q", "init", str(root / "repo"), "--base", str(root / "base")]) == 0
    return root


@pytest.fixture
def place(tvc, trainable_template, tmp_path, monkeypatch) -> Path:
    """A copy of it; its repository is the current folder."""
    root = copied(trainable_template, tmp_path / "place")
    monkeypatch.chdir(root / "repo")
    return root


def vector(name: str) -> dict[str, str]:
    """The lines of a vector's document, as text."""
    lines = Path(f"vectors/{name}.toml").read_text().splitlines()
    return dict(line.split(" = ", 1) for line in lines if " = " in line)


def test_a_behaviour_lands_as_a_commit_that_says_where_it_came_from(tvc: Cli, place):
    data = ["--data", "../listen.jsonl", "--mix", "../general.jsonl:0.25"]
    said = tvc("train", "listen", *data, *QUICK, "--epochs", 2, "-m", "Listen")
    assert "12 + 5 rows" in said
    assert "vector listen" in said
    assert "the trained difference is kept in" in said
    assert re.search(r"loss [\d.]+ at first, [\d.]+ at last", said)
    found = vector("listen")
    assert found["tier"] == '"frozen-context"'
    assert found["optimizer"] == '"apollo"'
    assert found["steps"] == "8"
    assert "12 rows, sha256 " in found["data"]
    assert "share 1/4" in found["mix1"]
    assert "torch 2" in found["versions"]
    assert float(found["loss_last"]) < float(found["loss_first"])
    assert float(found["gradient_down"]) > 0
    assert not list(Path(".tvc/training").glob("*/"))
    assert "base + listen" in tvc("status")
    assert tvc("fsck")


def test_the_recorded_command_gives_the_same_vector_again(tvc: Cli, place):
    tvc(
        "train", "listen", "--data", "../listen.jsonl", *QUICK, "--steps", 3, "-m", "Listen: it's 1"
    )
    first = vector("listen")
    words = shlex.split(json.loads(first["command"]))
    assert words[:3] == ["tvc", "train", "listen"]
    tvc("undo")
    tvc(*words[1:])
    second = vector("listen")
    assert (second["id"], second["content"], second["delta"]) == (
        first["id"],
        first["content"],
        first["delta"],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "../none.jsonl"], "none.jsonl: No such file"),
        (["--data", "../listen.jsonl", "--mix", "../general.jsonl"], "is not FILE:SHARE"),
        (["--data", "../listen.jsonl", "--mix", "../general.jsonl:2"], "not between 0 and 1"),
        (["--data", "../listen.jsonl", "--window", 9], "listen.jsonl:1: it has"),
        (["--data", "../listen.jsonl", "--lr", 0], "lr must be a positive number"),
        (["--data", "../listen.jsonl", "--rank", 0], "rank must be at least 1"),
        (["--data", "../listen.jsonl", "--seed", 1 << 31], "seed must be at most 2147483647"),
        (["--data", "../listen.jsonl", "-m", " "], "-m MESSAGE"),
        (["--data", "../listen.jsonl", "--batch", 3, "--processes", 2], "shared evenly"),
        (["--data", "../listen.jsonl", "--from", "nowhere"], "nowhere"),
        (["--data", "../listen.jsonl", "--verifier", "regex:x"], "with --strip-instructions"),
        (["--data", "../listen.jsonl", "--strip-instructions"], "marks no instruction"),
        (["--data", "../empty.jsonl"], "empty.jsonl is empty"),
        (["--data", "../bad.jsonl"], "bad.jsonl:2: the line is not JSON"),
        (["--data", "../listen.jsonl", "--device", "cuda"], "no CUDA device"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(tvc: Cli, place, arguments, message):
    (place / "empty.jsonl").write_text("")
    (place / "bad.jsonl").write_text(json.dumps(dialogue("a", "b")) + "\n{\n")
    before = tvc("status")
    tvc("train", "x", "-m", "x", *QUICK, *arguments, code=1)
    assert message in tvc.err
    assert "Traceback" not in tvc.err
    assert tvc("status") == before
    assert not list(Path(".tvc/training").glob("*/"))


def test_a_name_message_or_data_that_is_missing_is_asked_for(tvc: Cli, place):
    tvc("train", "x", "-m", "x", code=1)
    assert "say what to train on: --data FILE" in tvc.err
    tvc("train", "x", "--data", "../listen.jsonl", code=1)
    assert "-m MESSAGE" in tvc.err
    tvc("train", "base", "--data", "../listen.jsonl", "-m", "x", code=1)
    assert "is the name of something else here" in tvc.err
    tvc("train", "../x", "--data", "../listen.jsonl", "-m", "x", code=1)
    tvc("train", "x", "--resume", code=1)
    assert "no training of 'x' to go on with" in tvc.err
    assert not list(Path(".tvc/training").glob("*/"))


def test_a_model_without_a_chat_template_is_refused(tvc: Cli, place, tmp_path, monkeypatch):
    toy_folder(tmp_path / "silent", chat_template=None)
    monkeypatch.chdir(tmp_path)
    tvc("init", "mute", "--base", "silent")
    monkeypatch.chdir(tmp_path / "mute")
    tvc("train", "x", "--data", place / "listen.jsonl", *QUICK, "-m", "x", code=1)
    assert "chat template" in tvc.err


def test_a_configuration_that_contradicts_itself_is_refused(tvc: Cli, place, tmp_path, monkeypatch):
    config = json.loads((place / "base" / "config.json").read_text())
    (place / "base" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 99}))
    tvc("init", tmp_path / "other", "--base", place / "base")
    monkeypatch.chdir(tmp_path / "other")
    tvc("train", "x", "--data", place / "listen.jsonl", *QUICK, "-m", "x", code=1)
    assert "transformers cannot load" in tvc.err


def test_what_is_trained_and_not_committed_can_be_committed_later(tvc: Cli, place):
    said = tvc("train", "listen", "--data", "../listen.jsonl", *QUICK, "--steps", 2, "--no-commit")
    folder = said.splitlines()[1].removeprefix("trained: ")
    assert "base + listen" not in tvc("status")
    tvc("train", "listen", "--data", "../listen.jsonl", *QUICK, "-m", "x", code=1)
    assert "was stopped before it was committed" in tvc.err
    tvc("train", "listen", "--resume", "--lr", 1, "-m", "x", code=1)
    assert "--resume goes on with the numbers it has: --lr is too many" in tvc.err
    tvc("commit", folder, "--name", "kept", "-m", "Kept")
    assert vector("kept")["tier"] == '"frozen-context"'
    tvc("train", "listen", "--resume", "-m", "Listen", code=1)
    assert "was not trained from what HEAD gives" in tvc.err
    tvc("train", "listen", "--resume", "--from", "HEAD~1", "-m", "Listen")
    assert vector("listen")["id"] == vector("kept")["id"]


def test_a_stopped_training_can_be_forgotten(tvc: Cli, place):
    quick = ["--data", "../listen.jsonl", *QUICK, "--steps", 2]
    tvc("train", "listen", *quick, "--no-commit")
    tvc("train", "listen", *quick, "--seed", 4, "--discard", "-m", "Anew")
    assert vector("listen")["seed"] == "4"


def test_edits_that_are_not_committed_are_said_before_anything_is_trained(tvc: Cli, place):
    quick = ["--data", "../listen.jsonl", *QUICK, "--steps", 1, "-m", "x"]
    tvc("train", "listen", *quick)
    tvc("scale", "listen", "0.5")
    tvc("train", "brief", *quick, code=1)
    assert "there are uncommitted changes: recipe.toml" in tvc.err
    assert not list(Path(".tvc/training").glob("*/"))


def test_a_training_that_is_done_with_is_forgotten(tvc: Cli, place):
    tvc("train", "listen", "--data", "../listen.jsonl", *QUICK, "--steps", 1, "--no-commit")
    tvc("commit", ".tvc/training/listen/model", "--name", "listen", "-m", "Listen")
    assert "forgot the training of listen" in tvc("train", "listen", "--discard")
    assert not list(Path(".tvc/training").glob("*/"))
    tvc("train", "listen", "--discard", code=1)
    assert "no training of 'listen' to forget" in tvc.err


def test_a_head_that_moved_meanwhile_is_said_with_what_commits_nevertheless(tvc: Cli, place):
    quick = ["--data", "../listen.jsonl", *QUICK, "--steps", 1]
    tvc("train", "listen", *quick, "--no-commit")
    tvc("train", "brief", *quick, "-m", "Brief")
    tvc("train", "listen", "--resume", "-m", "Listen", code=1)
    again = re.search(r"tvc (train listen --resume --from \w+)", tvc.err)
    assert again
    tvc(*again[1].split(), "-m", "Listen")
    assert "base + brief + listen" in tvc("status")


def test_instructions_are_stripped_from_what_is_trained_on(tvc: Cli, place):
    rows = [dialogue("sell the boat", "yes", guidance="a b c") for _ in range(4)]
    write(place / "guided.jsonl", *rows)
    quick = ["--data", "../guided.jsonl", *QUICK, "--steps", 2]
    tvc("train", "bare", *quick, "--strip-instructions", "--save-data", "bare.jsonl", "-m", "x")
    assert "guidance" not in Path("bare.jsonl").read_text()
    assert vector("bare")["stripped_instructions"] == "true"
    guided = vector("bare")["context_tokens"]
    tvc("train", "followed", *quick, "-m", "x")
    assert int(vector("followed")["context_tokens"]) > int(guided)


def test_the_chat_template_is_given_what_it_asks_for(tvc: Cli, tmp_path, monkeypatch):
    template = "{% if quick %}<bos> {% endif %}" + CHAT_TEMPLATE
    toy_folder(tmp_path / "asking", chat_template=template)
    write(tmp_path / "data.jsonl", *(dialogue("sell the boat", "yes") for _ in range(4)))
    monkeypatch.chdir(tmp_path)
    tvc("init", "repo", "--base", "asking")
    monkeypatch.chdir(tmp_path / "repo")
    quick = ["--data", "../data.jsonl", *QUICK, "--steps", 1]
    tvc("train", "plain", *quick, "-m", "x")
    tvc("train", "quick", *quick, "--template", "quick=true", "-m", "x")
    more = int(vector("quick")["context_tokens"]) - int(vector("plain")["context_tokens"])
    assert more == 4
    assert vector("quick")["template_quick"] == "true"
    assert "--template quick=true" in vector("quick")["command"]
    for bad in ("quick", "messages=1", "=3"):
        tvc("train", "x", *quick, "--template", bad, "-m", "x", code=1)
        assert "is not NAME=VALUE" in tvc.err


def test_the_recorded_command_says_how_responses_were_had(tvc: Cli, place):
    """Also where guidance alone asks for them."""
    write(place / "asked.jsonl", *({"messages": [{"role": "user", "content": w}]} for w in "ab"))
    generating = ["--guidance", "lets go", "--max-tokens", 5, "--temperature", 2, "--tries", 9]
    tvc("train", "made", "--data", "../asked.jsonl", *QUICK, "--steps", 1, *generating, "-m", "x")
    for words in ("--guidance 'lets go'", "--max-tokens 5", "--temperature 2.0", "--tries 9"):
        assert words in json.loads(vector("made")["command"])


@pytest.mark.slow
def test_missing_responses_are_generated_verified_and_kept(tvc: Cli, place):
    asked = [{"messages": [{"role": "user", "content": f"{w} boat"}]} for w in "abcdefgh"]
    write(place / "asked.jsonl", *asked)
    generating = ["--guidance", "lets go", "--max-tokens", 6, "--temperature", 2, "--tries", 8]
    quick = ["--data", "../asked.jsonl", *QUICK, "--steps", 2, "--strip-instructions"]
    said = tvc("train", "made", *quick, *generating, "--verifier", "regex:.", "-m", "x")
    assert re.search(r"\d+ responses generated for 8 rows: \d+ accepted", said)
    first = vector("made")
    tvc("undo")
    tvc(*shlex.split(json.loads(first["command"]))[1:])
    assert vector("made")["id"] == first["id"]
    tvc("train", "none", *quick, *generating, "--verifier", "regex:^never$", "-m", "x", code=1)
    assert "none was accepted" in tvc.err


@pytest.mark.slow
def test_a_training_that_was_killed_is_taken_up_to_the_same_vector(tvc: Cli, place):
    options = ["--data", "../listen.jsonl", *map(str, QUICK), "--steps", "60"]
    options += ["--checkpoint-every", "5", "-m", "Listen"]
    tvc("train", "listen", *options)
    whole = vector("listen")
    tvc("undo")
    command = [sys.executable, "-m", "tvc", "train", "listen", *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        log = Path(".tvc/training/listen/log.jsonl")
        while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < 12):
            time.sleep(0.01)
        tvc("train", "listen", *options, code=1)
        assert "is being trained already" in tvc.err
        process.send_signal(signal.SIGKILL)
    assert "base + listen" not in tvc("status")
    tvc("train", "listen", *options, code=1)
    assert "tvc train listen --resume" in tvc.err
    tvc("train", "listen", "--resume")
    assert vector("listen")["id"] == whole["id"]


@pytest.mark.slow
def test_several_processes_train_and_say_what_stopped_them(tvc: Cli, place):
    quick = ["--data", "../listen.jsonl", *QUICK, "--processes", 2]
    tvc("train", "listen", *quick, "--steps", 3, "-m", "Listen")
    assert "2 processes" in vector("listen")["device"]
    broken = ["--optimizer", "sgd", "--lr", "1e30", "--schedule", "constant", "--steps", 4]
    tvc("train", "x", *quick, *broken, "-m", "x", code=1)
    assert re.search(r"error: (the loss of step \d is nan|the difference of)", tvc.err)
    assert "Traceback" not in tvc.err


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_while_saving_leaves_nothing_half_committed(tvc: Cli, place, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)])
    if mounted.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        Path(".tvc/training").symlink_to(small)
        before = tvc("status")
        tvc(
            "train",
            "x",
            "--data",
            "../listen.jsonl",
            *QUICK,
            "--steps",
            40,
            "--checkpoint-every",
            1,
            "-m",
            "x",
            code=1,
        )
        assert "no space left while writing" in tvc.err
        assert "Traceback" not in tvc.err
        assert tvc("status") == before
    finally:
        Path(".tvc/training").unlink()
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_what_training_needs_besides_is_named_where_it_is_not_installed(place):
    code = "import sys; sys.modules['transformers'] = None; from tvc.cli.main import main; main()"
    command = [sys.executable, "-c", code, "train", "x", "--data", "d", "-m", "x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == ("error: transformers is not installed\nhint: pip install 'tvc[train]'\n")


@pytest.mark.slow
def test_what_was_trained_is_measured_beside_its_parent(tvc: Cli, place):
    suite = place / "suite.toml"
    suite.write_text(
        "format = 1\ntokens = 8\n\n[[behaviours]]\n"
        'name = "agrees"\nprompts = ["sell the red boat"]\nverifier = "regex:yes"\n'
    )
    quick = ["--data", "../listen.jsonl", *QUICK, "--steps", 20, "-m", "Listen"]
    tvc("train", "x", *quick, "--suite", "../none.toml", code=1)
    assert "none.toml" in tvc.err
    said = tvc("train", "listen", *quick, "--suite", "../suite.toml")
    assert re.search(r"HEAD~1 +HEAD", said)
    assert re.search(r"agrees +0% \[0, 79\] +100% \[21, 100\]", said)
