"""Two processes that share a model out (FSDP2) get the gradients of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shared_out import BATCHES
from tiny_models import PAD, apart, gradients, tiny

from tvc.training.gradients import GradientReport
from tvc.training.tiers import Tier, decision_loss

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "qwen3.5", "mistral-window"])
def test_two_processes_get_the_gradients_of_one(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    script = [str(HERE / "shared_out.py"), name, str(tmp_path)]
    subprocess.run([*command, *script], env=environment, check=True, timeout=120)
    model = tiny(name)
    for tier in Tier:
        decision_loss(model, [*BATCHES[0], *BATCHES[1]], tier=tier, pad=PAD).total.backward()
        report = GradientReport()
        report.add(model.named_parameters())
        found, reported = torch.load(tmp_path / f"{tier}.pt")
        assert apart(found, gradients(model)) < 2e-5
        for kind, expected in report.to_json()["kinds"].items():
            assert reported["kinds"][kind]["elements"] == expected["elements"]
            assert reported["kinds"][kind]["share"] == pytest.approx(expected["share"], rel=1e-3)
