"""Tests against a real vLLM: they run in an environment of its own, and are skipped elsewhere.

`scripts/vllm_environment.sh VERSION FOLDER` makes one; then FOLDER/bin/python -m pytest tests/vllm.
Where vLLM is installed, warnings are no errors. Tests import it inside functions, where they can: it
takes half a minute.
"""

import importlib.util
import os
import tempfile
from pathlib import Path

import pytest

# This folder has the package's name too, and without the package would be taken for it.
_FOUND = importlib.util.find_spec("vllm")
_REASON = (
    None
    if _FOUND is not None and _FOUND.origin is not None
    else "vLLM is not installed here: see scripts/vllm_environment.sh"
)
_CACHE = pytest.StashKey[tempfile.TemporaryDirectory]()


class _Skipped(pytest.Module):
    """A module of tests that is not even imported."""

    def collect(self):
        pytest.skip(_REASON, allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    if _REASON is not None:
        return _Skipped.from_parent(parent, path=module_path)
    return None


def pytest_configure(config):
    """Set what vLLM reads when it is imported; servers that tests start inherit it."""
    if _REASON is not None:
        return
    # Warnings of vLLM and its libraries are not ours to mend.
    config.addinivalue_line("filterwarnings", "ignore")
    cache = config.stash[_CACHE] = tempfile.TemporaryDirectory(prefix="vllm-cache-")
    os.environ |= {
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_CACHE_ROOT": cache.name,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
    }


def pytest_unconfigure(config):
    if _CACHE in config.stash:
        config.stash[_CACHE].cleanup()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.vllm)
