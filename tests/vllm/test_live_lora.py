"""tvc live load-lora and unload-lora against a real server of vLLM.

The server is started twice: as it has to be, and as it usually is.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from makers import open_model, write_tiny, write_tuned
from safetensors.torch import load_file

from tvc.cli.main import _run

PROMPT = [1, *range(10, 60)]
TOKENS = 8
RANK = 8


def tvc(*words, code=0):
    assert _run(["-q", *map(str, words)]) == code


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def server(folder: Path, log: Path, *flags: str, **environment: str):
    """Yield the address of vLLM, serving a folder as `base`."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    program = [str(Path(sys.executable).with_name("vllm")), "serve", str(folder)]
    options = ["--served-model-name", "base", "--host", "127.0.0.1", "--port", str(port)]
    options += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "128", "--max-num-seqs"]
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*program, *options, "4", *flags],
            env={**os.environ, **environment},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 240
        while not answers(url):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < end, log.read_text()[-4000:]
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


def answers(url):
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def ask(url, model):
    """Return the tokens and their log-probabilities that a model of the server goes on with."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
    body |= {"ignore_eos": True, "logprobs": 0, "return_token_ids": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        [choice] = json.load(answer)["choices"]
    return choice["token_ids"], choice["logprobs"]["token_logprobs"]


def computed(base: Path, adapter: Path | None):
    """Return what transformers goes on with, the adapter's products added to the weights."""
    model = open_model(base, "qwen3", dtype=torch.float32)
    weights = dict(model.named_parameters())
    factors = load_file(adapter / "adapter_model.safetensors") if adapter else {}
    tokens, odds = list(PROMPT), []
    with torch.no_grad():
        for key, down in factors.items():
            if ".lora_A." in key:
                name = key.removeprefix("base_model.model.").replace(".lora_A", "")
                weights[name] += factors[key.replace(".lora_A.", ".lora_B.")] @ down
        for _ in range(TOKENS):
            said = model(torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
            tokens.append(int(said.argmax()))
            odds.append(float(said.max()))
    return tokens[len(PROMPT) :], odds


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A repository with two vectors, and adapters of other models."""
    root = tmp_path_factory.mktemp("live")
    sizes = {"narrow": {"hidden_size": 64}, "deep": {"num_hidden_layers": 3}, "base": {}}
    for name, options in sizes.items():
        write_tiny(root / name, "qwen3", **options)
        write_tuned(root / name, root / f"{name}-listen", "qwen3", seed=3, scale=0.1)
        with contextlib.chdir(root):
            tvc("init", f"{name}-repo", "--base", root / name)
        with contextlib.chdir(root / f"{name}-repo"):
            tvc("commit", root / f"{name}-listen", "-m", "Listen", "--name", "listen")
            tvc("export", "listen", "--lora", "--rank", RANK, "-o", root / f"{name}-adapter")
    write_tuned(root / "base", root / "brief", "qwen3", seed=4, scale=0.1)
    with contextlib.chdir(root / "base-repo"):
        tvc("switch", "-c", "brief", "HEAD~1")
        tvc("commit", root / "brief", "-m", "Brief", "--name", "brief")
        tvc("export", "brief", "--lora", "--rank", RANK, "-o", root / "brief-adapter")
        tvc("export", "brief", "--lora", "--rank", 2 * RANK, "-o", root / "large-adapter")
    return root


@pytest.fixture(scope="module")
def url(world):
    flags = ["--enable-lora", "--max-lora-rank", str(RANK), "--max-loras", "1"]
    allowed = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    with server(world / "base", world / "server.log", *flags, **allowed) as found:
        yield found


@pytest.fixture
def live(world, monkeypatch, capfd):
    """Runs tvc live in the repository and returns what it says."""
    monkeypatch.chdir(world / "base-repo")

    def run(*words, code=0):
        capfd.readouterr()
        status = _run(["live", *map(str, words)])
        out, err = capfd.readouterr()
        assert status == code, out + err
        return err if code else out

    return run


def near(heard, exact):
    assert heard[0] == exact[0]
    assert heard[1] == pytest.approx(exact[1], abs=1e-4)


def test_vectors_come_and_go_while_it_serves(live, url, world):
    listen = computed(world / "base", world / "base-adapter")
    brief = computed(world / "base", world / "brief-adapter")
    base = computed(world / "base", None)
    assert len({tuple(each[0]) for each in (listen, brief, base)}) == 3

    first = json.loads(live("load-lora", url, "calm", "listen", "--rank", RANK, "--json"))
    assert first["compared"]
    assert first["replaced"] is None
    assert Path(first["path"]).parent == world / "base-repo" / ".tvc" / "adapters"
    near(ask(url, "calm"), listen)
    near(ask(url, "base"), base)

    # Under the same name, after the same prompt was asked: nothing of the old one is remembered.
    second = json.loads(live("load-lora", url, "calm", "brief", "--rank", RANK, "--json"))
    assert second["replaced"] == first["path"] != second["path"]
    near(ask(url, "calm"), brief)

    # And back, to the same content in the same folder.
    third = json.loads(live("load-lora", url, "calm", "listen", "--rank", RANK, "--json"))
    assert third["path"] == first["path"]
    near(ask(url, "calm"), listen)

    said = live("load-lora", url, "folder", "../brief-adapter")
    assert said == f"{url} answers now as folder with {world / 'brief-adapter'}\n"
    near(ask(url, "folder"), brief)
    assert live("unload-lora", url, "folder") == f"{url} has forgotten folder\n"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        ask(url, "folder")
    near(ask(url, "calm"), listen)
    live("unload-lora", url, "calm")
    near(ask(url, "base"), base)


REFUSED = {
    "a rank that is too large": (
        ["load-lora", "bold", "../large-adapter"],
        "bold was not loaded: URL answered 500: LoRA rank 16 is greater than max_lora_rank 8.",
    ),
    # Either of these two vLLM itself takes in without a word.
    "of a narrower model": (
        ["load-lora", "bold", "../narrow-adapter"],
        "of shape [64, 192], the base model has [128, 192]",
    ),
    "of a deeper model": (
        ["load-lora", "bold", "../deep-adapter"],
        "changes 'model.layers.2.mlp.down_proj.weight', which the base model does not have",
    ),
    "no adapter": (["load-lora", "bold", "../base"], "has no adapter_config.json"),
    "no folder": (["load-lora", "bold", "../nowhere"], "there is no folder"),
    "no vector": (["load-lora", "bold", "lisen"], "no branch has a vector 'lisen'"),
    "the model's name": (["load-lora", "base", "../base-adapter"], "base is the model that URL"),
    "no name": (["load-lora", " ", "../base-adapter"], "cannot name an adapter"),
    "unload another": (["unload-lora", "bold"], "URL serves no adapter 'bold'"),
    "unload the model": (["unload-lora", "base"], "URL serves no adapter 'base'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_the_server_as_it_was(live, url, world, case):
    (command, *words), message = REFUSED[case]
    before = ask(url, "base")
    assert message.replace("URL", url) in live(command, url, *words, code=1)
    with urllib.request.urlopen(f"{url}/v1/models", timeout=5) as answer:
        assert [model["id"] for model in json.load(answer)["data"]] == ["base"]
    assert ask(url, "base") == before


def test_a_path_whose_content_may_have_changed_is_not_loaded_again(live, url, world):
    live("load-lora", url, "calm", "../base-adapter")
    error = live("load-lora", url, "calm", "../base-adapter", code=1)
    assert f"{url} has calm from this folder already" in error
    assert "other weights need another path" in error
    live("unload-lora", url, "calm")


def test_a_replacement_that_is_refused_leaves_what_was_there(live, url, world):
    live("load-lora", url, "calm", "../base-adapter")
    before = ask(url, "calm")
    assert "max_lora_rank" in live("load-lora", url, "calm", "../large-adapter", code=1)
    assert ask(url, "calm") == before
    live("unload-lora", url, "calm")


def test_a_server_that_was_not_started_for_it(live, world):
    flags = ["--enable-lora", "--max-lora-rank", str(RANK)]
    with server(world / "base", world / "plain.log", *flags) as url:
        error = live("load-lora", url, "calm", "../base-adapter", code=1)
        assert f"error: {url} takes no adapters while it runs\n" in error
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1" in error
    error = live("load-lora", url, "calm", "../base-adapter", code=1)
    assert f"{url} does not answer" in error
