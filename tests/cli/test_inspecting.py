"""tvc status, log, show and diff."""

import re

import pytest
from golden_files import check_golden


def plain(text: str) -> str:
    """Replace what differs from run to run."""
    text = re.sub(r"\b[0-9a-f]{64}\b", "<id>", text)
    text = re.sub(r"\b[0-9a-f]{40}\b", "<commit>", text)
    text = re.sub(r"\b[0-9a-f]{10}\b", "<short>", text)
    text = re.sub(r"\b[0-9a-f]{7}\b", "<abbrev>", text)
    text = re.sub(r"recorded(:|) +\S+", r"recorded\1 <time>", text)
    text = re.sub(r"(/\S+)+/models0", "<models>", text)
    # How small it gets is the codec's affair, and its library's.
    text = re.sub(r"stored_bytes: \d+", "stored_bytes: <bytes>", text)
    text = re.sub(r"\d\.\d kB", "<k> kB", text)
    return re.sub(r"source(:|) +\S+", r"source\1 <folder>", text)


@pytest.mark.parametrize(
    "words",
    [
        "status",
        "log",
        "log --graph --all",
        "log -n 1 brief",
        "show",
        "show HEAD~1",
        "show main~2",
        "diff",
        "diff main~1 main",
        "diff listen brief",
        "diff main main",
        "branch",
        "tag",
        "vectors",
    ],
)
def test_text(words, tvc, history):
    check_golden(
        f"text/{words.replace(' ', '_').replace('~', '-')}.txt", plain(tvc(*words.split()))
    )


def test_status_json(tvc, history):
    facts = tvc.json("status")
    assert facts.pop("commit") == tvc.json("show")["commit"]
    assert facts == {
        "branch": "main",
        "recipe": "base + ties(0.8 * brief, listen; density=0.5) - 0.5 * hedging",
        "changes": [
            "added ties(0.8 * brief, listen; density=0.5)",
            "removed ties(brief, listen; density=0.5)",
        ],
        "new_vectors": [],
        "removed_vectors": [],
        "merging": False,
        "conflicted": False,
    }


def test_log_json(tvc, history):
    entries = tvc.json("log", "--all")
    assert sorted(entry["subject"] for entry in entries[1:5]) == [
        "Hedge less",
        "Listen, and be brief",
        "Teach brief",
        "Teach listen",
    ]
    entries = tvc.json("log")
    assert entries[0]["parents"] == [entries[1]["commit"]]
    assert len(entries[1]["parents"]) == 3
    assert entries[0]["author"] == "Ada"
    assert entries[0]["date"].startswith("2026-01-02T03:04:05")
    assert len(tvc.json("log", "-n", 2)) == 2
    assert [entry["subject"] for entry in tvc.json("log", "brief")] == [
        "Teach brief",
        entries[-1]["subject"],
    ]


def test_show_json(tvc, history):
    facts = tvc.json("show")
    assert facts["message"] == "Hedge less\n\nA second paragraph."
    assert facts["terms"] == ["ties(brief, listen; density=0.5)", "-0.5 * hedging"]
    assert facts["vectors"] == ["brief", "hedging", "listen"]
    assert facts["base"] == "base"
    assert facts["changes"] == ["added -0.5 * hedging"]
    assert re.fullmatch("[0-9a-f]{64}", facts["recipe_id"])
    assert tvc.json("show", "main~2")["changes"] == ["the first commit"]


def test_diff_json(tvc, history):
    facts = tvc.json("diff", "listen", "brief")
    assert facts == {
        "old": "base + listen",
        "new": "base + brief",
        "difference": "brief - listen",
        "changes": ["added brief", "removed listen"],
        "files": {},
    }
    assert tvc.json("diff")["new"].startswith("base + ties(0.8 * brief")


def test_diff_shows_carried_files(tvc, talkers):
    assert tvc.json("diff", "formal", "casual")["files"] == {"chat_template.jinja": "casual"}
    assert "chat_template.jinja: from casual" in tvc("diff", "main", "casual")
    assert "chat_template.jinja: from no longer casual" in tvc("diff", "casual", "main")


def test_diff_interference(tvc, repo):
    said = tvc("diff", "--interference", "listen", "brief")
    assert "interference of listen and brief" in said


def test_revisions_that_are_not(tvc, repo):
    for command in ("show", "log", "diff", "checkout"):
        for revision in ("nowhere", "HEAD~99", "--", "--output=x", "", "HEAD:recipe.toml"):
            assert "there is no revision" in tvc.fails(command, "--", revision)
    assert not (repo / "x").exists()


@pytest.mark.parametrize("command", ["status", "log", "vectors", "undo", "commit", "fsck"])
def test_no_repository(command, tvc, tmp_path):
    error = tvc.fails(command)
    assert "no tvc repository in " in error
    assert "tvc init FOLDER --base MODEL" in error


def test_another_folder(tvc, repo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tvc("-C", "repo", "status").startswith("branch main")
    monkeypatch.chdir(repo / "vectors") if (repo / "vectors").exists() else None
    monkeypatch.chdir(repo / "bases")
    assert tvc("status").startswith("branch main")
    assert "-C: there is no folder 'nowhere'" in tvc.fails("-C", "nowhere", "status")


def test_quiet_prints_what_was_asked_for(tvc, repo):
    for command in (
        ["status"],
        ["log"],
        ["show"],
        ["branch"],
        ["vectors"],
        ["diff", "main", "brief"],
    ):
        assert tvc("-q", *command) == tvc(*command)
    assert tvc("-q", "add", "listen") == ""
    assert tvc("-q", "commit", "-m", "x") == ""
    assert tvc("-q", "merge", "brief") == ""
    assert tvc("-q", "undo") == ""
    assert tvc("-q", "checkout", "-o", "../out") == ""
    assert "error: " in tvc.fails("-q", "switch", "nowhere")
