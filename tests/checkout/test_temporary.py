"""A model folder for a while: there while it is read, gone afterwards, even after a kill."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
from workbench import Bench

from tvc.checkout.temporary import checked_out
from tvc.domain.grammar import parse_sum
from tvc.domain.recipe import Recipe
from tvc.models.directory import ModelDirectory
from tvc_store.dtypes import TensorSpec

SPEC = TensorSpec("F32", (2, 3))


def tensors(value):
    return {"w": (SPEC, np.full(SPEC.shape, value, np.float32).tobytes())}


def value_in(folder):
    return np.frombuffer(ModelDirectory.open(folder).read("w"), np.float32)[0]


def test_a_commit_and_a_recipe_that_nobody_committed_are_there_while_they_are_read(tmp_path):
    bench = Bench(tmp_path, tensors(1))
    bench.commit("up", tensors(3))
    repository, private = bench.repository, bench.repository.layout.private / "checkouts"
    before = repository.position()
    state = repository.state_at("HEAD")
    half = state.with_recipe(Recipe("base", parse_sum("0.5 * up"), ()))
    with (
        checked_out(repository.layout, state) as whole,
        checked_out(repository.layout, half) as part,
    ):
        assert (value_in(whole), value_in(part)) == (3, 2)
        assert whole.is_relative_to(private)
    assert not list(private.iterdir())
    assert repository.position() == before


def test_what_a_killed_process_left_is_removed_and_nothing_that_is_in_use(tmp_path):
    bench = Bench(tmp_path, tensors(1))
    layout, state = bench.repository.layout, bench.repository.state_at("HEAD")
    code = f"""
        import sys, time
        from pathlib import Path
        from tvc.checkout.temporary import checked_out
        from tvc.repository.repository import Repository
        repository = Repository.open(Path({str(layout.root)!r}))
        with checked_out(repository.layout, repository.state_at("HEAD")) as folder:
            print(folder, flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        left = Path(process.stdout.readline().strip())
        with checked_out(layout, state) as folder:
            assert left.exists()
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert value_in(folder) == 1
            with checked_out(layout, state):
                assert not left.exists()
                assert value_in(folder) == 1
    assert not list((layout.private / "checkouts").iterdir())
