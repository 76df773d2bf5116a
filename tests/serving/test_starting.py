"""How vLLM is started: on this machine alone, and on nothing that somebody else can remove."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from workbench import Bench

from tvc.checkout.servable import Unservable
from tvc.cli.serving import serve
from tvc.domain.errors import InputError
from tvc.serving.filing import filed
from tvc.serving.server import Unfit
from tvc.serving.source import Location
from tvc.serving.starting import is_local, serve_command, served_folder
from tvc.serving.versions import SUPPORTED, is_supported
from tvc_store.dtypes import TensorSpec

SPEC = TensorSpec("F32", (2, 2))


@pytest.mark.parametrize(
    ("flags", "local"),
    [
        ([], True),
        (["--host", "127.0.0.1"], True),
        (["--host=localhost"], True),
        (["--host", "0.0.0.0"], False),
        (["--host=::"], False),
        (["--port", "1", "--host", "10.0.0.1"], False),
        (["--host", "127.0.0.1", "--host", "0.0.0.0"], False),
        # vLLM takes a beginning for the whole, and nothing for every address.
        (["--hos", "0.0.0.0"], False),
        (["--ho=0.0.0.0"], False),
        (["--host="], False),
        (["--host", ""], False),
        (["--hos", "localhost"], True),
        (["--hf-overrides", "{}", "--headless"], True),
    ],
)
def test_only_this_machine_is_local(flags, local):
    assert is_local(flags) is local


@pytest.fixture
def programs(tmp_path) -> Path:
    """A folder with a program of vLLM's name."""
    path = tmp_path / "bin" / "vllm"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path.parent


def test_a_plain_folder_needs_no_plugin(programs, tmp_path):
    command = serve_command(
        str(tmp_path), "main", ["--port", "1"], live=False, roots=[], beside=programs
    )
    assert command.environment == {}
    assert list(command.arguments[1:]) == [
        *("serve", str(tmp_path), "--host", "127.0.0.1", "--served-model-name", "main"),
        *("--port", "1"),
    ]


def test_what_the_user_says_goes_before(programs, tmp_path):
    flags = ["--host=0.0.0.0", "--served-model-name", "x"]
    command = serve_command(str(tmp_path), "main", flags, live=False, roots=[], beside=programs)
    assert command.arguments[1:] == ("serve", str(tmp_path), *flags)


def test_underscores_and_beginnings_are_the_user_s_too(programs, tmp_path):
    flags = ["--served_model_name=x", "--ho", "localhost"]
    command = serve_command(str(tmp_path), "main", flags, live=False, roots=[], beside=programs)
    assert command.arguments[1:] == ("serve", str(tmp_path), *flags)


def test_what_a_file_of_flags_says_of_the_address_does_not_count(programs, tmp_path):
    """vLLM puts what the file says before everything else, and the last address counts."""
    flags = ["--config", "vllm.yaml"]
    command = serve_command(str(tmp_path), "main", flags, live=False, roots=[], beside=programs)
    assert command.arguments[3:5] == ("--host", "127.0.0.1")


@pytest.mark.parametrize(
    "flag",
    [
        *("--load-format=pt", "--load_format", "--load-f"),
        *("--additional-config.tvc_roots+=/", "--additional_config", "--weight-transfer={}"),
    ],
)
def test_what_tvc_sets_cannot_be_set_twice(programs, flag):
    with pytest.raises(InputError, match="is set by tvc"):
        serve_command("tvc:///r@x", "x", [flag], live=True, roots=[], beside=programs)


def test_a_vllm_without_the_plugin_is_refused_where_it_needs_one(programs, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(Unfit, match=r"vLLM is not installed|another environment|not tried"):
        serve_command("tvc:///r@x", "x", [], live=True, roots=[], beside=elsewhere)


def test_versions_are_known_by_their_first_two_numbers():
    assert is_supported("0.32.0+cpu")
    assert not is_supported("0.30.0")
    assert not is_supported("1.32.0")
    assert len(SUPPORTED) == 3


@pytest.fixture
def bench(tmp_path) -> Bench:
    made = Bench(tmp_path, {"a": (SPEC, bytes(16))})
    for n in (1, 2):
        made.commit(f"v{n}", {"a": (SPEC, np.full(4, n, np.float32).tobytes())})
    return made


def folder_of(bench: Bench, revision: str):
    state = bench.repository.state_at(revision)
    return served_folder(
        bench.repository.layout,
        state,
        commit=bench.repository.git.resolve(revision),
        on_plan=lambda _: lambda _: None,
    )


def test_a_folder_is_there_as_long_as_it_is_served(bench):
    with folder_of(bench, "HEAD") as (first, written):
        assert written is not None
        with folder_of(bench, "HEAD~1") as (second, _):
            assert first.is_dir()
            assert second.is_dir()
        with folder_of(bench, "HEAD") as (again, written):
            assert again == first
            assert written is None
    with folder_of(bench, "HEAD~2"):
        assert not first.exists()
        assert not second.exists()


def test_what_the_process_becomes_keeps_it(bench):
    """As `tvc serve` becomes vLLM, within the context."""
    script = (
        "import os, sys; from pathlib import Path\n"
        "from tvc.repository.repository import Repository\n"
        "from tvc.serving.starting import served_folder\n"
        "found = Repository.open(Path(sys.argv[1]))\n"
        "state = found.state_at('HEAD')\n"
        "with served_folder(found.layout, state, commit='', on_plan=lambda _: lambda _: None) as (at, _):\n"
        "    print(at, flush=True)\n"
        "    os.execv(sys.executable, [sys.executable, '-c', 'input()'])\n"
    )
    command = [sys.executable, "-c", script, str(bench.repository.layout.root)]
    heir = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    first = Path(heir.stdout.readline().strip())
    with folder_of(bench, "HEAD~1"):
        assert first.is_dir()
    heir.communicate("\n")
    assert heir.returncode == 0
    with folder_of(bench, "HEAD~1"):
        assert not first.exists()


def test_what_vllm_would_serve_wrongly_is_not_started_on(tmp_path):
    """Said before anything is written, for a folder and for a stream."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "vocab_size": 4,
    }
    made = Bench(tmp_path, {"model.norm.weight": (TensorSpec("F32", (4,)), bytes(16))}, config)
    with pytest.raises(Unservable), folder_of(made, "HEAD"):
        pass
    with pytest.raises(Unservable):
        filed(Location(made.repository.layout.root, "HEAD"), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("arguments", "revision", "flags"),
    [
        (["--", "--port", "1"], "HEAD", ["--port", "1"]),
        (["--dry-run", "--", "--port", "1"], "HEAD", ["--port", "1"]),
        (["--dry-run", "x", "--", "--port", "1", "--", "y"], "x", ["--port", "1", "--", "y"]),
        (["x"], "x", []),
        ([], "HEAD", []),
    ],
)
def test_flags_of_vllm_are_no_revision(arguments, revision, flags):
    context = serve.make_context("serve", list(arguments))
    assert context.params["revision"] == revision
    assert list(context.params["flags"]) == flags
