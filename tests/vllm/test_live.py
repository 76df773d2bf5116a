"""A running server becomes another commit: whole, attested, back to the bit; or stays what it is."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import makers
import pytest
import vllm.outputs
from servers import PROGRAMS, ask, running, stop, under_load

from tvc.dialogues.endpoint import Endpoint
from tvc.domain.errors import TvcError
from tvc.repository.layout import Layout
from tvc.repository.repository import Repository
from tvc.serving.attesting import attest
from tvc.serving.delta import Delta
from tvc.serving.pushing import delta_file, push
from tvc.serving.server import LiveServer, Unfit

LABELS_TOKENS = "WeightVersionSpan" in Path(vllm.outputs.__file__).read_text()
"""Whether this vLLM says of every token which weights it is of: since 0.32."""

PROMPTS = [[1 + (13 * i + 7 * j) % 250 for j in range(6 + i)] for i in range(6)]
TVC = PROGRAMS / "tvc"
WHO = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"))
}


def tvc(where: Path, *arguments: object, code: int = 0) -> str:
    done = subprocess.run(
        [TVC, "-q" if arguments[0] != "live" else "--no-pager", "-C", where, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **WHO},
    )
    assert done.returncode == code, (done.args, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A repository with main, tuned (all weights) and brief (few of them); and one of another base."""
    folder = tmp_path_factory.mktemp("live")
    base = makers.write_tiny(folder / "base", "qwen3")
    (base / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    makers.write_tuned(base, folder / "tuned", "qwen3", seed=3, scale=0.1)
    few = makers.open_model(base, "qwen3", dtype="auto")
    few.model.layers[1].mlp.down_proj.weight.data[:5] += 0.5
    few.model.layers[0].self_attn.q_proj.weight.data[3] -= 0.5
    makers.save(few, folder / "brief")
    tvc(folder, "init", "repo", "--base", base)
    for name in ("tuned", "brief"):
        tvc(folder / "repo", "switch", "-c", name, "main")
        tvc(folder / "repo", "commit", folder / name, "-m", f"Teach {name}", "--name", name)
    tvc(folder / "repo", "switch", "main")
    makers.write_tiny(folder / "other_base", "qwen3", hidden_size=64)
    tvc(folder, "init", "other", "--base", folder / "other_base")
    return folder


@pytest.fixture(scope="module")
def repository(world) -> Repository:
    return Repository.open(world / "repo")


@pytest.fixture(scope="module")
def server(world):
    """A server of main, started by tvc from the store."""
    command = (TVC, "serve", "main", "--stream", "--")
    with running(*command, cwd=world / "repo", log=world / "server.log") as found:
        yield found


@pytest.fixture(autouse=True)
def _main_again(request):
    """Whatever a test did, the next finds main served, and nothing paused."""
    yield
    if "server" in request.fixturenames:
        server, repository = (request.getfixturevalue(n) for n in ("server", "repository"))
        if server.live.is_paused:
            server.live.resume()
        push(server.live, repository, "main")


def answers(server) -> dict[int, tuple[int, ...]]:
    return {n: tuple(ask(server.port, p)["token_ids"]) for n, p in enumerate(PROMPTS)}


def assert_serves(server, repository: Repository, revision: str) -> None:
    serving = server.live.describe()
    assert serving.commit == repository.git.resolve(revision)
    found = attest(server.live, serving, repository.layout.root)
    assert found.with_commit
    assert found.wrong == {}
    assert set(found.equal) == set(serving.held)


@pytest.mark.parametrize("revision", ["tuned", "brief"])
def test_it_becomes_another_commit_and_goes_back_to_the_bit(server, repository, revision):
    before, first = server.live.describe(), answers(server)
    pushed = push(server.live, repository, revision)
    assert_serves(server, repository, revision)
    second = answers(server)
    assert second != first
    # vLLM's own label, and where it has one with every answer, that
    told = server.live._json("GET", "/weight_info")["weight_version"]
    assert told == repository.git.resolve(revision)
    spans = ask(server.port, PROMPTS[0]).get("weight_versions", [])
    assert {span["version"] for span in spans} == ({told} if LABELS_TOKENS else set())
    assert pushed.kind == {"tuned": "dense", "brief": "sparse"}[revision]
    assert 0 < pushed.nbytes <= pushed.model_bytes
    push(server.live, repository, "main", undo=True)
    assert server.live.describe().ids == before.ids
    assert answers(server) == first


def test_what_was_computed_before_is_forgotten(server, repository):
    """Also of requests that were under way while weights were written beside them."""
    push(server.live, repository, "tuned")
    wanted = answers(server)
    push(server.live, repository, "main")
    long = [PROMPTS[0] + [7, 9] * 90, *PROMPTS[1:]]  # more than one block of the cache
    whole = ask(server.port, long[0])["token_ids"]
    for hogwild in (False, True):
        push(server.live, repository, "tuned")
        fresh = ask(server.port, long[0])["token_ids"]
        push(server.live, repository, "main")
        assert ask(server.port, long[0])["token_ids"] == whole
        with under_load(server.port, long, tokens=48):
            push(server.live, repository, "tuned", hogwild=hogwild)
        assert ask(server.port, long[0])["token_ids"] == fresh != whole
        assert answers(server) == wanted
        push(server.live, repository, "main")


def test_it_chats_as_any_server_does(server):
    """The interface that `tvc train` generates responses through."""
    endpoint = Endpoint(f"{server.url}/v1", "main")
    said = [
        endpoint.ask([{"role": "user", "content": "w7 w9 w11"}], {"temperature": 0}) for _ in "ab"
    ]
    assert said[0].text.split()
    assert said[0] == said[1]


def test_what_it_says_is_what_a_fresh_server_says(server, repository, world, tmp_path):
    push(server.live, repository, "tuned")
    said = answers(server)
    tvc(world / "repo", "checkout", "tuned", "-o", tmp_path / "out")
    command = (PROGRAMS / "vllm", "serve", tmp_path / "out", "--host", "127.0.0.1")
    with running(*command, cwd=tmp_path, log=tmp_path / "log") as plain:
        assert answers(plain) == said
        # and a server that was started without tvc is refused in one line
        output = tvc(world / "repo", "push-live", plain.url, "tuned", code=1)
        assert "does not let itself be asked or changed" in output
        assert "hint: start it with `tvc serve`" in output
        assert answers(plain) == said


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_whole_tensors_and_elements_give_the_same(server, repository, kind):
    push(server.live, repository, "brief", kind=kind)
    assert_serves(server, repository, "brief")


def test_the_server_reads_the_store_itself(server, repository):
    pushed = push(server.live, repository, "tuned", from_store=True)
    assert (pushed.kind, pushed.nbytes) == ("store", 0)
    assert_serves(server, repository, "tuned")


def test_recipes_that_nobody_committed(server, repository):
    push(server.live, repository, "base + 1/2 * tuned - brief")
    serving = server.live.describe()
    assert serving.label.startswith("recipe:")
    assert attest(server.live, serving, repository.layout.root).wrong == {}


def test_paused_no_request_fails_and_none_sees_two_commits(server, repository):
    models = []
    for revision in ("main", "tuned"):
        push(server.live, repository, revision)
        models.append(answers(server))
    with under_load(server.port, PROMPTS) as load:
        for revision in ("main", "tuned") * 4:
            push(server.live, repository, revision)
            time.sleep(0.3)
    assert load.failures == []
    assert len(load.answers) > 20
    assert load.mixed(models) == 0
    assert load.of_two_versions == 0
    versions = {version for *_, each in load.answers for version in each}
    assert not LABELS_TOKENS or versions == {
        repository.git.resolve(each) for each in ("main", "tuned")
    }


def test_hogwild_no_request_fails_and_what_is_torn_is_counted(server, repository):
    with under_load(server.port, PROMPTS, tokens=192) as load:
        for number in range(30):
            revision = ("tuned", "main")[number % 2]
            pushed = push(server.live, repository, revision, hogwild=True)
            time.sleep(0.2)
            # Requests that go on across a change are what it is for; on a busy machine few are
            # under way at its moment.
            if number >= 7 and revision == "main" and (load.of_two_versions or not LABELS_TOKENS):
                break
    assert load.failures == []
    assert pushed.forwards > 0
    assert 0 <= pushed.torn <= pushed.forwards
    assert not LABELS_TOKENS or load.of_two_versions > 0
    serving = server.live.describe()
    assert serving.raw["hogwild"] is True
    assert_serves(server, repository, "main")


def test_the_commands_say_what_happened(server, world):
    repo = world / "repo"
    assert tvc(repo, "push-live", server.url, "brief") == ""
    told = json.loads(tvc(repo, "push-live", server.url, "tuned", "--json"))
    assert told["mode"] == "paused"
    assert told["paused_seconds"] > 0
    output = tvc(repo, "live", server.url)
    assert "base + tuned" in output
    assert "read back and equal to this repository's commit" in output
    tvc(repo, "push-live", server.url, "--undo")
    told = json.loads(tvc(repo, "live", server.url, "--json"))
    assert told["recipe"] == "base + brief"
    assert told["wrong"] == {}
    assert told["equal"] == len(server.live.describe().held)
    # from elsewhere, without the repository
    assert "equal to what it said it loaded" in tvc(world, "live", server.url)


def refused(server, update: dict, words: str) -> None:
    before = server.live.describe()
    with pytest.raises(Unfit, match=words):
        server.live.change(update, label="x")
    after = server.live.describe()
    assert (after.ids, after.label) == (before.ids, before.label)


def test_what_does_not_fit_is_refused_and_it_serves_on(server, repository, world, tmp_path):
    serving, said = server.live.describe(), answers(server)
    private = repository.layout.pushed
    with delta_file(Delta("0" * 64, "x"), repository.layout) as update:
        refused(server, update, "another state")
        refused(server, update | {"sha256": "0" * 64}, "hash differs")
        refused(server, update | {"kind": "pickle"} | {"path": update["path"] + "x"}, "may not")
        refused(server, update | {"mode": "wild"}, "no mode")
    (tmp_path / ".tvc").mkdir()
    with delta_file(Delta(serving.raw["state"], "x"), Layout(tmp_path)) as update:
        refused(server, update, "does not read")
    (private / "link").symlink_to("/etc/passwd")
    refused(server, {"path": str(private / "link"), "sha256": "0" * 64, "kind": "dense"}, "read")
    (private / "link").unlink()
    refused(server, {"path": f"{private}/../../../x", "sha256": "", "kind": "dense"}, "not read")
    refused(server, {"repository": str(world / "other"), "commit": "HEAD"}, "does not read")
    refused(server, {"repository": str(world / "repo"), "commit": "--help"}, "no revision")
    refused(server, {"nonsense": 1}, "refused")
    assert answers(server) == said
    assert not server.live.is_paused


def test_another_base_is_refused(server, world):
    output = tvc(world / "other", "push-live", server.url, "main", code=1)
    assert "serves another model" in output
    assert_serves(server, Repository.open(world / "repo"), "main")


def test_a_client_that_was_killed_while_it_paused(server, repository, world):
    """The server waits; it says so, and how to let it go on."""
    server.live._json("POST", "/pause?mode=wait")
    output = tvc(world / "repo", "push-live", server.url, "tuned", code=1)
    assert "is paused" in output
    assert f"tvc live {server.url} --resume" in output
    assert "PAUSED" in tvc(world / "repo", "live", server.url)
    tvc(world / "repo", "live", server.url, "--resume")
    assert not server.live.is_paused
    assert_serves(server, repository, "main")
    ask(server.port, PROMPTS[0])


def test_from_a_folder_and_killed_half_way(world, repository, tmp_path):
    """Served from a checkout in the cache; then the server dies while it is being changed."""
    command = (TVC, "serve", "brief", "--")
    with running(*command, cwd=world / "repo", log=tmp_path / "log") as found:
        assert (world / "repo" / ".tvc" / "served").is_dir()
        assert_serves(found, repository, "brief")
        os.killpg(found.process.pid, signal.SIGSTOP)
        pushing = subprocess.Popen(
            [TVC, "-C", world / "repo", "push-live", found.url, "tuned"],
            stderr=subprocess.PIPE,
            text=True,
        )
        time.sleep(3)
        stop(found, signal.SIGKILL)
        _, errors = pushing.communicate(timeout=60)
    assert pushing.returncode == 1
    assert "Traceback" not in errors
    assert "error: " in errors
    assert list((world / "repo" / ".tvc" / "live").glob("*.delta")) == []


def test_nobody_there():
    with pytest.raises(TvcError, match="does not answer"):
        LiveServer("http://127.0.0.1:9").describe()
