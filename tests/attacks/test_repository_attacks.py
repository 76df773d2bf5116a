"""Hostile repositories: what a clone, an archive or a revision's name can do, and what it gets."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tvc.cli.main import _run as run
from tvc.repository.repository import Repository
from tvc_store.dtypes import TensorSpec

PROGRAM = "#!/bin/sh\ntouch {marker}\ncat\n"


def write_model(folder: Path, byte: int) -> Path:
    folder.mkdir()
    spec = TensorSpec("BF16", (4, 4))
    header = {"w": {"dtype": "BF16", "shape": [4, 4], "data_offsets": [0, spec.nbytes]}}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    body = bytes([byte, 0x3C]) * 16
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + body)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """A repository with a branch, and the place where an attack would leave its mark."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ada@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "base", 1)
    write_model(tmp_path / "tuned", 2)
    assert run(["-q", "init", "repo", "--base", "base"]) == 0
    monkeypatch.chdir(tmp_path / "repo")
    assert run(["-q", "switch", "-c", "side"]) == 0
    assert run(["-q", "commit", "../tuned", "-m", "tuned", "--name", "tuned"]) == 0
    assert run(["-q", "switch", "main"]) == 0
    return tmp_path / "repo"


def git(*arguments: str, **options) -> str:
    return subprocess.run(
        ["git", *arguments], check=True, capture_output=True, text=True, **options
    ).stdout


EVERYTHING = [
    ["status"],
    ["log", "--graph", "--all"],
    ["show", "side"],
    ["diff", "main", "side"],
    ["branch"],
    ["switch", "side"],
    ["switch", "main"],
    ["merge", "side"],
    ["undo"],
    ["merge", "--no-ff", "side", "-m", "x"],
    ["revert", "HEAD", "--mainline", "1"],
    ["add", "tuned"],
    ["commit", "-m", "x"],
    ["tag", "t"],
    ["op", "log"],
    ["vectors"],
    ["checkout", "-o", "../out"],
    ["checkout", "-o", "../out", "--force"],
]


@pytest.mark.parametrize(
    "setting",
    [
        ["core.fsmonitor", "{program}"],
        ["core.hooksPath", "{folder}"],
        ["core.pager", "{program}"],
        ["core.editor", "{program}"],
        ["core.sshCommand", "{program}"],
        ["core.askPass", "{program}"],
        ["diff.external", "{program}"],
        ["filter.evil.clean", "{program}"],
        ["filter.evil.smudge", "{program}"],
        ["filter.evil.process", "{program}"],
        ["diff.evil.textconv", "{program}"],
        ["diff.evil.command", "{program}"],
        ["merge.evil.driver", "{program}"],
        ["alias.log", "!{program}"],
        ["alias.ls-tree", "!{program}"],
        ["gpg.program", "{program}"],
        ["gpg.ssh.program", "{program}"],
        ["credential.helper", "!{program}"],
        ["pager.log", "{program}"],
        ["interactive.diffFilter", "{program}"],
        ["sequence.editor", "{program}"],
        ["trailer.x.cmd", "{program}"],
        ["core.gitProxy", "{program}"],
        ["uploadpack.packObjectsHook", "{program}"],
    ],
    ids=lambda setting: setting[0],
)
def test_no_setting_of_the_repository_runs_a_program(setting, repo, tmp_path):
    marker, folder = tmp_path / "owned", tmp_path / "hooks"
    folder.mkdir()
    names = [
        "program",
        "post-checkout",
        "pre-commit",
        "reference-transaction",
        "post-index-change",
        "post-commit",
        "fsmonitor-watchman",
    ]
    for name in names:
        (folder / name).write_text(PROGRAM.format(marker=marker))
        (folder / name).chmod(0o755)
    for name in names[1:]:
        hook = repo / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_bytes((folder / name).read_bytes())
        hook.chmod(0o755)
    # A file that is not tvc's, on one branch only, so that git itself writes it on a switch.
    (repo / ".gitattributes").write_text("* filter=evil diff=evil merge=evil\n")
    (repo / "notes.txt").write_text("notes\n")
    git("add", ".gitattributes", "notes.txt")
    git(
        "commit",
        "-q",
        "-m",
        "notes",
        "--no-verify",
        env={
            **os.environ,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "core.hooksPath",
            "GIT_CONFIG_VALUE_0": "/dev/null",
        },
    )
    git("config", setting[0], setting[1].format(program=folder / "program", folder=folder))
    git("config", "commit.gpgSign", "true")
    git("config", "log.showSignature", "true")
    marker.unlink(missing_ok=True)
    for command in EVERYTHING:
        assert run(["--no-pager", *command]) in (0, 1), command
        assert not marker.exists(), command
    assert (repo / "notes.txt").read_text() == "notes\n"


@pytest.mark.parametrize(
    "revision",
    [
        "--upload-pack=touch x",
        "--output=x",
        "-x",
        "--",
        "",
        "a..b",
        "^main",
        "main\nx",
        "@{-99}",
        ":/x",
        "--all",
        "HEAD:recipe.toml",
        "\x1b[31m",
    ],
)
def test_revisions_are_never_options(revision, repo, capsys):
    for command in (
        ["show", "--", revision],
        ["diff", "--", revision, "main"],
        ["merge", "--", revision],
        ["checkout", "-o", "../out", "--", revision],
        ["switch", "--detach", "--", revision],
        ["branch", "--", "new", revision],
    ):
        assert run(["--no-pager", *command]) == 1, command
    shown = capsys.readouterr()
    assert "\x1b[31m" not in shown.out + shown.err
    assert not (repo / "x").exists()
    assert not (repo.parent / "out").exists()


def put(path: str, text: str) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


DOCUMENTS = {
    "no TOML": ("recipe.toml", "x = ["),
    "no format": ("recipe.toml", 'base = "base"\nterms = []\n'),
    "newer format": ("recipe.toml", 'format = 2\nbase = "base"\nterms = []\n'),
    "unknown key": ("recipe.toml", 'format = 1\nbase = "base"\nterms = []\nrun = "x"\n'),
    "wrong type": ("recipe.toml", "format = 1\nbase = 3\nterms = []\n"),
    "terms no list": ("recipe.toml", 'format = 1\nbase = "base"\nterms = "a"\n'),
    "no such base": ("recipe.toml", 'format = 1\nbase = "other"\nterms = []\n'),
    "no such vector": ("recipe.toml", 'format = 1\nbase = "base"\nterms = ["other"]\n'),
    "a path as base": ("recipe.toml", 'format = 1\nbase = "../../etc/passwd"\nterms = []\n'),
    "a path as file": (
        "recipe.toml",
        'format = 1\nbase = "base"\nterms = []\n[files]\n"../x" = "base"\n',
    ),
    "nested a thousand deep": (
        "recipe.toml",
        'format = 1\nbase = "base"\nterms = ["' + "ties(" * 1000 + "a" + ")" * 1000 + '"]\n',
    ),
    "TOML nested deep": ("recipe.toml", "format = 1\nterms = " + "[" * 50_000),
    "too many terms": (
        "recipe.toml",
        'format = 1\nbase = "base"\nterms = [' + '"a",' * 10_001 + "]\n",
    ),
    "a huge number": ("recipe.toml", 'format = 1\nbase = "base"\nterms = ["1e999999999 * a"]\n'),
    "too large": ("recipe.toml", "#" * (5 << 20)),
    "escapes in a name": (
        "recipe.toml",
        'format = 1\nbase = "base"\nterms = ["\'\\u001b[31m\'"]\n',
    ),
    "a vector that is none": ("vectors/x.toml", "format = 1\n"),
    "a vector with a made-up id": (
        "vectors/x.toml",
        f'format = 1\nid = "{"0" * 64}"\nkind = "fine-tune"\ncontent = "{"0" * 64}"\n'
        f'[trained_from]\nbase = "{"0" * 64}"\nterms = []\nsnapshot = "{"0" * 64}"\n',
    ),
    "a vector of a strange kind": (
        "vectors/x.toml",
        f'format = 1\nid = "{"0" * 64}"\nkind = "program"\ncontent = "{"0" * 64}"\n'
        f'[trained_from]\nbase = "{"0" * 64}"\nterms = []\nsnapshot = "{"0" * 64}"\n',
    ),
    "ids that are none": ("bases/x.toml", 'format = 1\nsource = "x"\nsnapshot = "../../x"\n'),
    "escapes in a source": (
        "bases/x.toml",
        f'format = 1\nsource = "\\u001b[2J"\nsnapshot = "{"0" * 64}"\n',
    ),
    "twins by case": ("vectors/A.toml", None),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_hostile_documents_are_refused_in_one_line(case, repo, capsys):
    path, text = DOCUMENTS[case]
    if text is None:
        vector = git("show", "side:vectors/tuned.toml")
        put("vectors/A.toml", vector)
        put("vectors/a.toml", vector)
    else:
        put(path, text)
    before = git("rev-parse", "HEAD")
    # A recipe that names what is not there can still be edited: that is how it is mended.
    edits = [] if case.startswith("no such") else [["add", "tuned"]]
    for command in (["commit", "-m", "x"], ["diff"], *edits):
        assert run(["--no-pager", *command]) == 1, command
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert "\x1b[31m\x1b" not in shown
    assert "\x1b[2J" not in shown
    assert "error:" in shown
    assert git("rev-parse", "HEAD") == before
    # The same out of a commit, as a clone brings it.
    git("add", "-A")
    git("commit", "-q", "-m", "hostile")
    assert run(["checkout", "-o", "../out"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert not (repo.parent / "out").exists()
    # The way back is open.
    git("reset", "-q", "--hard", "HEAD~1")
    assert run(["status"]) == 0


@pytest.mark.parametrize("path", ["recipe.toml", "vectors", "vectors/x.toml", "bases"])
def test_symbolic_links_are_not_followed(path, repo, tmp_path, capsys):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "recipe.toml").write_text('format = 1\nbase = "base"\nterms = []\n')
    (secret / "x.toml").write_text("secret = 1\n")
    place = repo / path
    if place.is_dir():
        place.rename(tmp_path / "old")
    else:
        place.unlink(missing_ok=True)
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(secret / Path(path).name if path.endswith(".toml") else secret)
    assert run(["commit", "-m", "x"]) == 1
    assert "secret = 1" not in capsys.readouterr().err
    git("add", "-A")
    git("commit", "-q", "-m", "hostile")
    assert run(["show"]) == 1
    assert run(["checkout", "-o", "../out"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_pipes_do_not_block(repo):
    (repo / "recipe.toml").unlink()
    os.mkfifo(repo / "recipe.toml")
    assert run(["status"]) == 1


@pytest.mark.parametrize(
    ("journal", "stays"),
    [
        ({"overlay": {"../../owned.toml": "x"}}, "owned.toml"),
        ({"overlay": {"/tmp/tvc-owned.toml": "x"}}, "owned.toml"),
        ({"overlay": {".git/hooks/post-checkout": "x"}}, ".git/hooks/post-checkout"),
        ({"refs": {"refs/heads/x y\ndelete refs/heads/main": "0" * 40}}, ""),
        ({"refs": {"refs/heads/../../config": "0" * 40}}, ""),
        ({"refs": {"refs/remotes/x": "0" * 40}}, ""),
        ({"head": "--upload-pack=x"}, ""),
        ({"head": 3}, ""),
        ({"merging": ["x"]}, ""),
        ({"refs": None}, ""),
    ],
)
@pytest.mark.parametrize("where", ["journal", "operation"])
def test_records_in_an_archive_move_nothing_outside(journal, stays, where, repo, capsys):
    head = git("rev-parse", "HEAD").strip()
    position = {
        "head": "refs/heads/main",
        "refs": {"refs/heads/main": head},
        "overlay": {},
        "merging": None,
    }
    body = {
        "command": "x",
        "before": position,
        "after": {**position, **journal},
        "time": 0,
        "undoes": None,
    }
    if where == "journal":
        put(".tvc/journal.json", json.dumps(body))
    else:
        body["before"], body["after"] = body["after"], body["before"]
        put(".tvc/operations/99999998.json", json.dumps(body))
    assert run(["undo"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert git("rev-parse", "HEAD").strip() == head
    assert not (repo.parent.parent / "owned.toml").exists()
    assert not (repo.parent / "owned.toml").exists()
    assert not Path("/tmp/tvc-owned.toml").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"before": 1}', "[" * 100_000, "\x00"])
def test_damaged_records_are_said_to_be_so(text, repo, capsys):
    put(".tvc/journal.json", text)
    assert run(["add", "tuned"]) == 1
    assert "Traceback" not in capsys.readouterr().err
    Path(".tvc/journal.json").unlink()
    put(".tvc/operations/99999999.json", text)
    assert run(["undo"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_messages_cannot_speak_to_the_terminal(repo, capsys):
    evil = "evil \x1b]0;owned\x07 \x1b[2J \u202e name"
    git("commit", "-q", "--allow-empty", "-m", evil)
    git("branch", "x")
    for command in (["log"], ["log", "--graph"], ["show"], ["branch"], ["undo"], ["op", "log"]):
        run(["--no-pager", *command])
    shown = capsys.readouterr()
    for sign in ("\x1b]", "\x07", "\x1b[2J", "\u202e"):
        assert sign not in shown.out + shown.err


def test_a_repository_inside_a_bare_one_is_not_taken(repo, tmp_path, monkeypatch, capsys):
    bare = repo / "inner"
    git("init", "-q", "--bare", str(bare))
    monkeypatch.chdir(bare)
    assert run(["status"]) == 0
    assert "branch main" in capsys.readouterr().out


def test_a_folder_that_is_gone_is_not_the_current_one(repo, tmp_path):
    """GitPython starts git in the current folder then, which is a repository here."""
    assert Repository.is_started(repo)
    assert Path.cwd() == repo
    assert not Repository.is_started(tmp_path / "gone")
