from collections.abc import Generator

import torch

from ...config import ModelConfig, VllmConfig
from ...config.load import LoadConfig

class DefaultModelLoader:
    def __init__(self, load_config: LoadConfig) -> None: ...
    def download_model(self, model_config: ModelConfig) -> None: ...
    def get_all_weights(
        self, model_config: ModelConfig, model: torch.nn.Module
    ) -> Generator[tuple[str, torch.Tensor]]: ...
    def load_weights(self, model: torch.nn.Module, model_config: ModelConfig) -> None: ...
    def load_model(
        self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = ""
    ) -> torch.nn.Module: ...
