"""What the tests of this folder share."""

import json
from pathlib import Path

import pytest


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
