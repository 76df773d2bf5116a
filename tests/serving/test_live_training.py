"""A server follows a training: every push arrives, the end is a commit, and failures lose nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from dialogues.toys import toy_folder, toy_model, word_tokenizer
from serving.live_http import Served, serving

from tvc.cli.main import _run
from tvc.repository.repository import Repository
from tvc.serving.attesting import attest
from tvc.serving.pushing import push
from tvc.serving.server import LiveServer, Unfit
from tvc.serving.sharing import SharedWeights
from tvc.serving.training import LiveTraining
from tvc.vllm.holding import content_id
from tvc_store.dtypes import TensorSpec

QUICK = ["--steps", 5, "--rank", 4, "--lr", "1e-3", "--batch", 4, "--threads", 1, "-m", "Say yes"]
HOGWILD = ("--live-mode", "hogwild")
MODES = {"paused": (), "hogwild": HOGWILD, "shared": (*HOGWILD, "--live-share")}


def tvc(*arguments: object, code: int = 0) -> None:
    assert _run([str(each) for each in arguments]) == code


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A repository on a toy in bfloat16, and data."""
    root = tmp_path_factory.mktemp("followed")
    toy_folder(root / "base")
    toy_model(word_tokenizer()).to(torch.bfloat16).save_pretrained(root / "base")
    turns = [
        [{"role": "user", "content": f"sell {w}"}, {"role": "assistant", "content": "yes ok"}]
        for w in "abcdefgh"
    ]
    lines = [json.dumps({"messages": each}) + "\n" for each in turns]
    (root / "data.jsonl").write_text("".join(lines))
    (root / "empty.jsonl").write_text("")
    return root


@pytest.fixture
def place(template, tmp_path, monkeypatch) -> Path:
    """A new repository on it, which is the current folder."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ada@example.org")
    tvc("-q", "init", tmp_path / "repo", "--base", template / "base")
    monkeypatch.chdir(tmp_path / "repo")
    return template


@pytest.fixture
def repository(place) -> Repository:
    return Repository.open(Path.cwd())


@pytest.fixture
def head(repository) -> str:
    return repository.git.resolve("HEAD")


@pytest.fixture
def server(place, head):
    with serving(place / "base", head, dtype="auto") as found:
        yield found


def train(place: Path, server: Served, *more: object, name="yes", code: int = 0) -> None:
    data = ["--data", place / "data.jsonl"] if "--data" not in more else []
    live = ["--live", server.url, "--live-every", 2]
    tvc("train", name, *data, *QUICK, *live, *more, code=code)


@pytest.mark.parametrize("mode", MODES)
def test_every_push_arrives_and_the_end_is_the_commit(place, repository, head, server, mode):
    train(place, server, *MODES[mode])
    commit = repository.git.resolve("HEAD")
    assert commit != head
    mark = "" if mode == "paused" else "+hogwild"
    steps = [f"train:yes@{n}{mark}" for n in (2, 4, 5)]
    assert server.labels == [*steps, commit]
    client = LiveServer(server.url)
    found = attest(client, client.describe(), repository.layout.root)
    assert found.with_commit
    assert not found.wrong
    assert len(found.equal) == len(server.record.tensors)
    assert not server.is_paused
    assert not list((repository.layout.private / "live").iterdir())
    # One step back is the model that was trained from, not a step.
    assert [each.label for each in server.live.before] == [head]


@pytest.mark.slow
def test_following_changes_nothing_of_the_training(place, repository, server):
    train(place, server, *MODES["shared"], name="seen")
    tvc("train", "alone", "--from", "HEAD~1", "--data", place / "data.jsonl", *QUICK)
    seen, alone = (repository.state_at("HEAD").vectors[name] for name in ("seen", "alone"))
    assert seen.content == alone.content


@pytest.mark.slow
def test_what_another_commit_is_served_becomes_what_is_trained_from_first(
    place, repository, server, capfd
):
    tvc("train", "first", "--data", place / "data.jsonl", *QUICK)
    tvc("train", "second", "--no-commit", "--data", place / "data.jsonl", *QUICK)
    tvc("train", "second", "--discard")
    train(place, server)
    assert "it serves what is trained from now" in capfd.readouterr().err
    assert server.labels[0] == repository.git.resolve("HEAD~1")
    assert server.labels[-1] == repository.git.resolve("HEAD")


def test_a_server_of_another_model_is_refused_before_anything_is_there(
    place, repository, head, tmp_path, capfd
):
    torch.manual_seed(0)
    other = toy_model(word_tokenizer())
    config = other.config
    config.hidden_size = 16
    type(other)(config).save_pretrained(tmp_path / "other")
    with serving(tmp_path / "other", "f" * 40) as server:
        train(place, server, code=1)
    assert "the server serves another model" in capfd.readouterr().err
    assert not (repository.layout.private / "training" / "yes").exists()
    assert repository.git.resolve("HEAD") == head


def test_nobody_there_is_said_before_anything_is_there(place, repository, server, capfd):
    server.shutdown()
    server.server_close()
    train(place, server, code=1)
    assert "does not answer" in capfd.readouterr().err
    assert not (repository.layout.private / "training" / "yes").exists()


def test_a_tensor_that_the_server_cannot_change_is_refused_before_the_first_step(
    place, head, capfd
):
    altered = "model.layers.0.self_attn.q_norm.weight"
    with serving(place / "base", head, altered=altered, dtype="auto") as server:
        train(place, server, code=1)
        assert server.labels == []
    said = capfd.readouterr().err
    assert f"{altered} is trained, but" in said
    assert "took nothing of it as it is" in said
    tvc("train", "yes", "--resume")


@pytest.mark.parametrize(
    "mode", [pytest.param("paused", marks=pytest.mark.slow), "hogwild", "shared"]
)
def test_a_server_that_goes_does_not_take_the_training_with_it(
    place, repository, head, server, mode, capfd
):
    def stop_at_the_second():
        if server.labels:
            server.socket.close()
            raise ConnectionResetError

    server.on_update = stop_at_the_second
    train(place, server, *MODES[mode], code=1)
    said = capfd.readouterr().err
    assert said.count("step 4: no more is pushed") == 1
    assert "the training is committed, but not served" in said
    assert f"tvc push-live {server.url}" in said
    assert repository.git.resolve("HEAD~1") == head
    assert "yes" in repository.state_at("HEAD").vectors


@pytest.mark.slow
def test_what_somebody_else_made_it_serve_stays(place, repository, server, capfd):
    tvc("train", "other", "--data", place / "data.jsonl", *QUICK, "--seed", 1)
    tvc("switch", "-c", "trunk", "HEAD~1")

    def push_another():
        if len(server.labels) == 1:
            server.on_update = lambda: None
            server.labels.append("theirs")
            push(LiveServer(server.url), repository, "main", hogwild=True)
            server.live.wait()

    server.on_update = push_another
    train(place, server, code=1)
    said = capfd.readouterr().err
    assert "step 4: no more is pushed" in said
    assert "somebody else changed it" in said
    assert server.live.origin.commit == repository.git.resolve("main")


@pytest.mark.slow
def test_a_paused_server_is_left_so_and_the_training_goes_on(place, server, capfd):
    server.is_paused = True
    train(place, server, code=1)
    assert "somebody is changing it" in capfd.readouterr().err
    assert server.is_paused


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--processes", 2), "among several processes"),
        (("--live-share",), "--live-share: with --live URL and"),
    ],
)
def test_what_does_not_go_together_is_said(place, server, more, words, capfd):
    train(place, server, *more, code=1)
    assert words in capfd.readouterr().err
    assert server.labels == []


def weights_of(server: Served):
    """The server's own weights, as a training that begins has them."""
    for name in server.record.tensors:
        tensor = server.record.read(name)
        yield name, TensorSpec("BF16", tuple(tensor.shape)), bytes_of(tensor)


def bytes_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


@pytest.mark.parametrize("share", [False, True])
def test_only_what_changed_travels_or_is_written(repository, head, server, share):
    live = LiveTraining(LiveServer(server.url), repository, "yes", hogwild=share, share=share)
    live.begin(head)
    now = {name: (spec, data.copy()) for name, spec, data in weights_of(server)}
    live.check(((n, *each) for n, each in now.items()), needed=now.keys())
    name = "model.layers.1.mlp.down_proj.weight"
    now[name][1].view(np.uint16)[[5, 77]] ^= 1
    live.push(1, ((n, *each) for n, each in now.items()))
    assert np.array_equal(bytes_of(server.record.read(name)), now[name][1])
    assert live.totals.nbytes == (0 if share else 2 * (2 + 4))
    assert live.totals.written == (now[name][1].size if share else 0)
    # And the next one is told from the one before.
    now[name][1].view(np.uint16)[3] ^= 1
    live.push(2, ((n, *each) for n, each in now.items()))
    assert np.array_equal(bytes_of(server.record.read(name)), now[name][1])
    assert live.totals.nbytes == (0 if share else 3 * (2 + 4))
    live.release()


@pytest.mark.slow
def test_a_server_that_holds_another_type_is_given_its_own(place, repository, head):
    with serving(place / "base", head, dtype=torch.float32) as server:
        train(place, server)
        client = LiveServer(server.url)
        found = attest(client, client.describe(), repository.layout.root)
        assert {spec.dtype for spec in client.describe().held.values()} == {"F32"}
    assert found.with_commit
    assert not found.wrong


class TestSharing:
    """Memory that two processes write to."""

    def test_the_model_computes_with_what_was_written(self, server):
        tokens = torch.tensor([[2, 5, 19, 6]])
        with torch.inference_mode():
            before = server.model(tokens).logits
            client = LiveServer(server.url)
            shared = SharedWeights(client, client.describe())
            assert torch.equal(server.model(tokens).logits, before)
            new = server.record.read("model.norm.weight") * 2
            assert shared.write({"model.norm.weight": bytes_of(new)}) == bytes_of(new).size
            assert torch.equal(server.model(tokens).logits, before * 2)
        shared.close()

    def test_one_writes_at_a_time_and_pushes_wait(self, repository, head, server):
        client = LiveServer(server.url)
        shared = SharedWeights(client, client.describe())
        with pytest.raises(Unfit, match="another training writes to the memory"):
            SharedWeights(client, client.describe())
        server.live.origin = type(server.live.origin)("else")
        with pytest.raises(Unfit, match="a training writes to the weights"):
            push(client, repository, head)
        shared.close()
        push(client, repository, head)
        assert not server.is_paused

    def test_what_is_written_while_it_is_read_is_not_called_damaged(self, repository, head, server):
        client = LiveServer(server.url)
        serving = client.describe()
        shared = SharedWeights(client, serving)
        norm = bytes_of(server.record.read("model.norm.weight") + 1)
        shared.write({"model.norm.weight": norm})
        with pytest.raises(Unfit, match="is being written to"):
            attest(client, serving, repository.layout.root)
        shared.close()
        # Nobody writes any more: what it says it is, and is not, is said.
        now = client.describe()
        assert now.label == f"{head}+unfinished"
        assert not attest(client, now, repository.layout.root).wrong

    def test_a_forward_that_saw_two_models_is_counted(self, server):
        client = LiveServer(server.url)
        shared = SharedWeights(client, client.describe())
        norm = bytes_of(server.record.read("model.norm.weight"))
        tokens = torch.tensor([[2, 5]])
        with torch.inference_mode():
            server.model(tokens)
            assert (server.live.forwards.done, server.live.forwards.torn) == (1, 0)
            write = server.model.model.layers[1].register_forward_hook(
                lambda *_: (shared.write({"model.norm.weight": norm}), None)[1]
            )
            server.model(tokens)
            write.remove()
            assert (server.live.forwards.done, server.live.forwards.torn) == (2, 1)
            server.model(tokens)
            assert (server.live.forwards.done, server.live.forwards.torn) == (3, 1)
        shared.close()

    def test_what_a_killed_training_left_is_read_back_and_can_be_replaced(
        self, repository, head, server
    ):
        client = LiveServer(server.url)
        before = client.describe()
        name = "model.norm.weight"
        code = f"""
import os, sys
import numpy as np
from tvc.serving.server import LiveServer
from tvc.serving.sharing import SharedWeights
client = LiveServer({server.url!r})
shared = SharedWeights(client, client.describe())
shared.write({{{name!r}: np.full(64, 7, np.uint8)}})
shared._counter[0] += 1
os._exit(9)
"""
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
        assert done.returncode == 9
        after = client.describe()
        assert after.label == f"{head}+unfinished"
        assert after.commit == ""
        assert after.ids[name] == content_id(server.record.read(name)) != before.ids[name]
        push(client, repository, head)
        assert dict(client.describe().ids) == dict(before.ids)
        with torch.inference_mode():
            server.model(torch.tensor([[2, 5]]))
        assert server.live.forwards.torn == 0

    @pytest.mark.parametrize(
        ("alter", "words"),
        [
            (lambda raw: raw | {"pid": "1"}, "where its memory is"),
            (lambda raw: raw | {"fd": True}, "where its memory is"),
            (lambda raw: raw | {"fd": -1}, "where its memory is"),
            (lambda raw: raw | {"pid": 1 << 30}, "on another machine"),
            (lambda raw: raw | {"fd": 1}, "on another machine"),
            (lambda raw: raw | {"nonce": "0" * 32}, "on another machine"),
            (lambda raw: raw | {"nonce": ""}, "on another machine"),
            (lambda raw: raw | {"size": raw["size"] + 1}, "of another size"),
            (lambda raw: raw | {"pieces": {}}, "lies"),
            (lambda raw: altered_piece(raw, at=raw["size"]), "lies"),
            (lambda raw: altered_piece(raw, at=0), "lies"),
            (lambda raw: altered_piece(raw, at=4097), "lies"),
            (lambda raw: altered_piece(raw, held=[0, [1 << 40]]), "lies"),
            (lambda raw: altered_piece(raw, held=[-1, [1]]), "lies"),
            (lambda raw: altered_piece(raw, held=[0, [1, 1]]), "lies"),
            (lambda raw: altered_piece(raw, given=[1, [1]]), "lies"),
            (lambda raw: altered_piece(raw, size=[31]), "lies"),
            (lambda raw: altered_piece(raw, size="x"), "lies"),
        ],
    )
    def test_what_a_server_says_of_its_memory_is_checked(self, server, alter, words):
        client = LiveServer(server.url)
        share = server.live.share
        server.live.share = lambda: alter(share())
        with pytest.raises(Unfit, match=words) as failed:
            SharedWeights(client, client.describe())
        del server.live.share
        assert failed.value.__traceback__  # which holds what was mapped
        # Nothing is left open that would keep others out.
        SharedWeights(client, client.describe()).close()


def altered_piece(raw: dict, **words: object) -> dict:
    """The answer with another place of the last norm, 32 elements in one piece."""
    (piece,) = raw["pieces"]["model.norm.weight"]
    return raw | {"pieces": raw["pieces"] | {"model.norm.weight": [piece | words]}}


def test_weights_of_another_shape_are_not_sent(repository, head, server):
    live = LiveTraining(LiveServer(server.url), repository, "yes")
    live.begin(head)
    name, spec = "model.norm.weight", TensorSpec("BF16", (16,))
    weights = [(name, spec, np.zeros(32, np.uint8))]
    for attempt in (lambda: live.check(weights, needed=()), lambda: live.push(1, weights)):
        with pytest.raises(Unfit, match=r"is BF16 \[32\], not BF16 \[16\]"):
            attempt()
    assert server.labels == []
