"""What the tests of this folder share."""

import json
from pathlib import Path

import pytest
import torch


@pytest.fixture
def write_lines(tmp_path: Path):
    """Write objects, or raw bytes, as lines of a file."""

    def write(*lines: object, name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(
            b"".join(
                (each if isinstance(each, bytes) else json.dumps(each).encode()) + b"\n"
                for each in lines
            )
        )
        return path

    return write


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Models this small are slower with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
