"""What vLLM calls when it starts: the entry point `vllm.general_plugins`.

It is called in every process of vLLM's, maybe more than once. Two functions of vLLM's are replaced,
since there is no other way to give a model's name another form than a folder or a hub's: what asks
whether a name is one of a cloud's, and what fetches such a model's configuration.
"""

from pathlib import Path

from vllm import envs
from vllm.config import ModelConfig
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.engine import arg_utils
from vllm.model_executor.model_loader import register_model_loader
from vllm.v1.worker.worker_base import WorkerBase

from tvc.serving.filing import filed
from tvc.serving.source import SCHEME, Location
from tvc.vllm.backend import BACKEND, RPC, TvcTransferEngine, answer
from tvc.vllm.loader import TvcModelLoader

__all__ = ["register"]


def register() -> None:
    """Make the load format, the backend and the names of models in repositories known."""
    if hasattr(WorkerBase, RPC):
        return
    setattr(WorkerBase, RPC, answer)
    register_model_loader("tvc")(TvcModelLoader)
    WeightTransferEngineFactory.register_engine(BACKEND, TvcTransferEngine)
    _know_names()


def _know_names() -> None:
    is_cloud_storage = arg_utils.is_cloud_storage
    pull = ModelConfig.maybe_pull_model_tokenizer_for_runai

    def is_elsewhere(name: str) -> bool:
        return name.startswith(SCHEME) or is_cloud_storage(name)

    def pull_or_file(self: ModelConfig, model: str, tokenizer: str) -> None:
        if not model.startswith(SCHEME):
            pull(self, model, tokenizer)
            return
        location, folder = filed(Location.parse(model), Path(envs.VLLM_CACHE_ROOT) / "tvc")
        self.model_weights = str(location)
        self.model = str(folder)
        if tokenizer == model:
            self.tokenizer = str(folder)

    arg_utils.is_cloud_storage = is_elsewhere
    ModelConfig.maybe_pull_model_tokenizer_for_runai = pull_or_file
