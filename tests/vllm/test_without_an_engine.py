"""vLLM's own classes without its engine: built, loaded from a store, and changed in memory.

For versions of which no build runs on a CPU: there the official wheel can build models, load them
and change them, which is what the plugin does; only serving is not shown.
"""

import os
import subprocess
from copy import copy
from pathlib import Path
from types import SimpleNamespace

import makers
import pytest
import torch
import vllm
from servers import PROGRAMS, free_port

from tvc.repository.repository import Repository
from tvc.serving.source import Location, served
from tvc.serving.versions import is_supported
from tvc.vllm.backend import answer
from tvc.vllm.live import WrongServer

WHO = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"))
}


def tvc(where: Path, *arguments: object) -> None:
    command = [PROGRAMS / "tvc", "-q", "-C", where, *map(str, arguments)]
    subprocess.run(command, check=True, env={**os.environ, **WHO})


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("loaded")
    base = makers.write_tiny(folder / "base", "qwen3")
    makers.write_tuned(base, folder / "tuned", "qwen3", seed=3)
    tvc(folder, "init", "repo", "--base", base)
    tvc(folder / "repo", "switch", "-c", "tuned", "main")
    tvc(folder / "repo", "commit", folder / "tuned", "-m", "Tune", "--name", "tuned")
    return folder / "repo"


@pytest.fixture(scope="module")
def loaded(repo):
    """vLLM's configuration, and its model of main, loaded from the store."""
    from vllm.config import set_current_vllm_config
    from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model

    config = EngineArgs(
        model=f"tvc://{repo}@main",
        load_format="tvc",
        dtype="float32",
        enforce_eager=True,
        max_model_len=128,
        weight_transfer_config={"backend": "tvc"},
    ).create_engine_config()
    with set_current_vllm_config(config), pytest.MonkeyPatch.context() as patch:
        # As vLLM's worker for CPUs does.
        patch.setattr(torch.accelerator, "empty_cache", lambda: None)
        address = f"tcp://127.0.0.1:{free_port()}"
        init_distributed_environment(1, 0, address, 0, "gloo")
        ensure_model_parallel_initialized(1, 1)
        yield config, get_model(vllm_config=config)


@pytest.fixture(scope="module")
def backend(loaded):
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    config, model = loaded
    made = WeightTransferEngineFactory.create_engine(
        config.weight_transfer_config, config, torch.device("cpu"), model
    )
    made.init_transfer_engine(made.parse_init_info({}))
    return made


def ids(repo: Path, revision: str) -> dict[str, str]:
    with served(Location(repo, revision)) as source:
        return {name: source.id_of(name) for name in source.specs}


def test_this_version_is_one_that_is_said_to_work():
    assert is_supported(vllm.__version__)


def test_every_tensor_is_held_as_the_store_has_it(backend, repo):
    assert backend.live.unheld == {}
    wanted = ids(repo, "main")
    assert backend.live.digests(wanted) == wanted
    assert backend.live.origin.commit == Repository.open(repo).git.resolve("main")


def test_it_becomes_another_commit_and_goes_back(backend, repo):
    git = Repository.open(repo).git
    start = backend.live.state
    for revision in ("tuned", "main"):
        commit = git.resolve(revision)
        backend.start_weight_update()
        backend.update_weights({"repository": str(repo), "commit": commit})
        backend.finish_weight_update()
        wanted = ids(repo, revision)
        assert backend.live.digests(wanted) == wanted
    assert backend.live.state == start


def test_what_does_not_fit_is_refused(backend, repo):
    start = backend.live.state
    with pytest.raises(Exception, match="does not read"):
        backend.update_weights({"repository": "/", "commit": "HEAD"})
    with pytest.raises(Exception, match="no revision"):
        backend.update_weights({"repository": str(repo), "commit": "nosuch"})
    with pytest.raises(ValueError, match="Invalid update_info"):
        backend.update_weights({"pickle": "x"})
    assert backend.live.state == start


def unfit(loaded, words: str, *, model=None, **changes) -> None:
    """Make a backend for another configuration or model, and see it refuse in these words."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    config, own = loaded
    config = copy(config)
    for name, value in changes.items():
        part, _, key = name.partition("__")
        changed = copy(getattr(config, part))
        setattr(changed, key, value)
        setattr(config, part, changed)
    made = WeightTransferEngineFactory.create_engine(
        config.weight_transfer_config, config, torch.device("cpu"), model or own
    )
    told = answer(SimpleNamespace(weight_transfer_engine=made), "describe")
    assert words in told["error"]
    assert told["hint"]
    with pytest.raises(WrongServer, match=words):
        made.update_weights({"repository": "/", "commit": "HEAD"})


class Other:
    """What a configuration of another architecture says of itself."""

    architectures = ("DeepseekV3ForCausalLM",)


def test_servers_that_cannot_be_changed_say_so(loaded):
    unfit(loaded, "quantized", model_config__quantization="fp8")
    unfit(loaded, "several devices", parallel_config__world_size=2)
    unfit(loaded, "DeepseekV3ForCausalLM", model_config__hf_config=Other())
    unfit(loaded, "through tvc", model=torch.nn.Linear(2, 2))
    told = answer(SimpleNamespace(weight_transfer_engine=None), "describe")
    assert "not started with tvc's backend" in told["error"]
    assert "--weight-transfer-config" in told["hint"]


def test_another_version_is_refused(loaded, monkeypatch):
    monkeypatch.setattr(vllm, "__version__", "0.99.0")
    unfit(loaded, "does not know vLLM 0.99.0")
