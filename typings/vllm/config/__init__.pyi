from .load import LoadConfig as LoadConfig

class ModelConfig:
    model: str
    model_weights: str
    tokenizer: str | None
    quantization: str | None
    hf_config: object
    def maybe_pull_model_tokenizer_for_runai(self, model: str, tokenizer: str) -> None: ...

class ParallelConfig:
    world_size_across_dp: int

class VllmConfig:
    model_config: ModelConfig
    parallel_config: ParallelConfig
    load_config: LoadConfig
    additional_config: object
