from collections.abc import Callable
from typing import TypeVar

Loader = TypeVar("Loader", bound=type)

def register_model_loader(load_format: str) -> Callable[[Loader], Loader]: ...
