"""A training: what it depends on, that it goes on after a kill, and that processes make no difference."""

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from dialogues.toys import toy_folder, toy_model, word_tokenizer
from safetensors.torch import load_file

from tvc.dialogues.loading import load_tokenizer
from tvc.dialogues.rendering import render_examples
from tvc.dialogues.rows import row_from
from tvc.models.directory import ModelDirectory
from tvc.recording.trained import read_training
from tvc.training.loop import Diverged, train
from tvc.training.run import Run, Task
from tvc.training.settings import BadSetting, Settings

SETTINGS = Settings(
    tier="frozen-context",
    optimizer="apollo",
    rank=4,
    multiplier=1.0,
    lr=1e-3,
    weight_decay=0.01,
    clip=1.0,
    schedule="cosine",
    warmup=2,
    steps=7,
    batch=4,
    micro_batch=2,
    checkpoint_decisions=False,
    seed=3,
    keep_delta="float32",
    checkpoint_every=2,
    processes=1,
    threads=1,
    device="cpu",
)


def rows():
    for number in range(9):
        asked = "sell the red boat " * (number % 4 + 1)
        said = "yes ok lets go" if number % 2 else "no"
        yield {
            "messages": [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": said},
            ]
        }


def prepared(folder: Path, *, dtype=torch.bfloat16, **changes) -> Run:
    folder.mkdir(exist_ok=True)
    run = Run.named(folder, "listen")
    settings = dataclasses.replace(SETTINGS, **changes)
    with run.held():
        toy_folder(run.base)
        toy_model(word_tokenizer()).to(dtype).save_pretrained(run.base)
        tokenizer, ends = load_tokenizer(run.base)
        found = [row for n, each in enumerate(rows()) for row in row_from(each, f"data:{n}")]
        examples = render_examples(found, tokenizer, window=64, ends=ends)
        order = [[(step * 4 + k) % 9 for k in range(4)] for step in range(settings.steps)]
        task = Task(settings, "a" * 64, "b" * 40, {"data": "x"}, "message")
        run.prepare(task, examples, order)
    return run


def result(run: Run) -> dict[str, str]:
    """Digests of what a training made."""
    names = ["model.safetensors", "delta/model.safetensors"]
    return {
        name: hashlib.sha256((run.model / name).read_bytes()).hexdigest()
        for name in names
        if (run.model / name).exists()
    }


class Stopped(Exception):
    pass


def stop_after(step):
    def see(made):
        if made.step == step:
            raise Stopped

    return see


def test_a_training_leaves_what_a_commit_takes(tmp_path):
    run = prepared(tmp_path)
    seen = []
    train(run, on_step=seen.append)
    assert [each.step for each in seen] == list(range(1, 8))
    assert seen[-1].loss < seen[0].loss
    training = read_training(ModelDirectory.open(run.model))
    assert training.recipe == "a" * 64
    assert training.provenance["data"] == "x"
    assert training.provenance["trained_tokens"] == sum(each.tokens for each in seen)
    assert training.measured["loss_first"] == pytest.approx(seen[0].loss, rel=1e-4)
    shares = [v for k, v in training.measured.items() if k.startswith("gradient_")]
    assert sum(shares) == pytest.approx(1, abs=0.01)
    delta = load_file(run.model / "delta" / "model.safetensors")
    base, tuned = (load_file(p / "model.safetensors") for p in (run.base, run.model))
    for name, each in delta.items():
        assert torch.equal(tuned[name], (base[name].float() + each).bfloat16()), name


@pytest.mark.parametrize(
    ("optimizer", "step"),
    [
        ("apollo", 5),
        *(
            pytest.param(optimizer, step, marks=pytest.mark.slow)
            for optimizer, step in (("apollo", 1), ("apollo-mini", 4), ("adamw", 4), ("sgd", 5))
        ),
    ],
)
def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path, optimizer, step):
    whole = prepared(tmp_path / "whole", optimizer=optimizer)
    train(whole)
    run = prepared(tmp_path / "stopped", optimizer=optimizer)
    with pytest.raises(Stopped):
        train(run, on_step=stop_after(step))
    seen = []
    train(run, on_step=seen.append)
    assert seen[0].step == 1 + (step - 1) // 2 * 2  # told of a step before it is kept
    assert result(run) == result(whole)
    assert [s["loss"] for s in run.said()] == [s["loss"] for s in whole.said()]


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_to_the_same_weights(tmp_path):
    whole = prepared(tmp_path / "whole", steps=40)
    train(whole)
    run = prepared(tmp_path / "killed", steps=40)
    code = f"from pathlib import Path; from tvc.training.run import Run; from tvc.training.loop import train; train(Run(Path({str(run.path)!r})))"
    for lines in (3, 11, 24):
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            while len(run.said()) < lines and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
    train(run)
    assert result(run) == result(whole)


def test_a_checkpoint_that_was_being_written_counts_for_nothing(tmp_path):
    whole = prepared(tmp_path / "whole")
    train(whole)
    run = prepared(tmp_path / "cut")
    with pytest.raises(Stopped):
        train(run, on_step=stop_after(5))
    newest = sorted(run.checkpoints.iterdir())[-1]
    half = newest.with_name("00000006.unfinished")
    shutil.copytree(newest, half)
    next(half.glob("*.distcp")).write_bytes(b"cut")
    (run.path / "model.unfinished").mkdir()
    (run.path / "model.unfinished" / "model.safetensors").write_bytes(b"cut")
    with run.log.open("ab") as log:
        log.write(b'{"step": 6, "lo')
    assert run.said_last() == run.said()[-1]
    train(run)
    assert result(run) == result(whole)


def test_only_the_newest_two_checkpoints_are_kept(tmp_path):
    run = prepared(tmp_path)
    train(run)
    assert sorted(each.name for each in run.checkpoints.iterdir()) == ["00000004", "00000006"]


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["checkpointed"])
def test_full_tiers_train_the_same(tmp_path, tier):
    run = prepared(tmp_path, tier=tier, checkpoint_every=0)
    train(run)
    expected = prepared(tmp_path / "full", tier="full", checkpoint_every=0)
    train(expected)
    assert result(run) == result(expected)


def test_threads_of_rows_at_once_change_rounding_only(tmp_path):
    one, other = prepared(tmp_path / "1", micro_batch=1), prepared(tmp_path / "4", micro_batch=4)
    for run in (one, other):
        train(run)
    losses = [[step["loss"] for step in run.said()] for run in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_a_loss_that_is_no_number_stops_the_training_and_names_the_rows(tmp_path):
    run = prepared(tmp_path, optimizer="sgd", lr=1e20, clip=0.0, schedule="constant", warmup=0)
    with pytest.raises(Diverged, match=r"the loss of step \d is nan: rows data:"):
        train(run)
    assert not run.model.exists()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["apollo", "adamw"])
def test_two_processes_train_what_one_does(tmp_path, optimizer):
    changes = {"optimizer": optimizer, "micro_batch": 2, "dtype": torch.float32}
    one, two = prepared(tmp_path / "1", **changes), prepared(tmp_path / "2", processes=2, **changes)
    train(one)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    worker = ["-m", "tvc.cli.work.train_worker", str(two.path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *worker], check=True, timeout=200, env=environment)
    found = [load_file(run.model / "delta" / "model.safetensors") for run in (one, two)]
    difference = sum(float((found[0][k] - found[1][k]).square().sum()) for k in found[0])
    length = sum(float(found[0][k].square().sum()) for k in found[0])
    assert (difference / length) ** 0.5 < 1e-4
    for step, other in zip(one.said(), two.said(), strict=True):
        assert step["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert step["gradient"] == pytest.approx(other["gradient"], rel=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "lr must be a positive number"),
        ({"lr": float("nan")}, "lr must be a positive number"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"clip": -1.0}, "clip must be at least 0"),
        ({"weight_decay": float("inf")}, "weight-decay must be at least 0"),
        ({"tier": "half"}, "tier cannot be 'half'"),
        ({"keep_delta": "float8"}, "keep-delta cannot be"),
        ({"batch": 3, "processes": 2}, "3 rows cannot be shared evenly by 2"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(BadSetting, match=message):
        dataclasses.replace(SETTINGS, **change)


def test_settings_are_read_back_and_nothing_else_is():
    value = SETTINGS.to_json()
    assert Settings.from_json(json.loads(json.dumps(value))) == SETTINGS
    for bad in ({**value, "more": 1}, {**value, "steps": "7"}, {"lr": 1}):
        with pytest.raises(BadSetting):
            Settings.from_json(bad)
