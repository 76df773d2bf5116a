"""Texts and settings of other people: none of them reaches the terminal as it is, or runs."""

import json
import os
import subprocess

import pytest

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m‮ evil"


def git(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    return done.stdout


def harmless(text: str) -> bool:
    return not any(char in text for char in "\x1b\x07\x9b\x08\r‮")


def test_messages_do_not_speak_to_the_terminal(tvc, repo):
    tvc("add", "listen")
    tvc("commit", "-m", f"subject {ESCAPES}\n\nbody {ESCAPES}")
    tvc("tag", "v1")
    assert tvc.json("show")["message"].startswith(f"subject {ESCAPES}")
    assert tvc.json("log")[0]["subject"].startswith("subject ")
    for command in (
        ["log"],
        ["log", "--graph", "--all"],
        ["show"],
        ["branch"],
        ["tag"],
        ["status"],
        ["op", "log"],
        ["undo"],
    ):
        said = tvc(*command)
        assert harmless(said + tvc.err), command


def test_authors_do_not_speak_to_the_terminal(tvc, repo):
    git("commit", "-q", "--allow-empty", "-m", "x", GIT_AUTHOR_NAME=f"Eve {ESCAPES}")
    for command in (["log"], ["show"], ["branch"]):
        assert harmless(tvc(*command)), command
    assert "Eve" in tvc("log")


def test_provenance_does_not_speak_to_the_terminal(tvc, repo):
    tvc("switch", "listen")
    path = repo / "vectors" / "listen.toml"
    text = path.read_text().replace("[provenance]", "[provenance]\nnote = " + json.dumps(ESCAPES))
    path.write_text(text)
    tvc("commit", "-m", "note")
    for command in (["show"], ["vectors"], ["vectors", "inspect", "listen"]):
        said = tvc(*command)
        assert harmless(said), command
    assert tvc.json("vectors", "inspect", "listen")["provenance"]["note"] == ESCAPES


def test_unicode_goes_through(tvc, repo):
    message = "Höre zu 👂 прежде чем 提案する"
    tvc("add", "listen")
    tvc("commit", "-m", message)
    assert message in tvc("log")
    assert message in tvc("show")
    assert tvc.json("log")[0]["subject"] == message
    assert message in tvc("branch")


@pytest.mark.parametrize("word", ["\udcff", "a\udcffb"])
def test_arguments_are_text(word, tvc, repo):
    for command in (
        ["log", word],
        ["commit", "-m", word],
        ["tag", word],
        ["commit", word, "-m", "x"],
    ):
        assert "is not UTF-8" in tvc.fails(*command)


@pytest.mark.parametrize("name", ["evil", "e=vil", "ev il.x"])
@pytest.mark.parametrize("kind", ["clean", "smudge", "process"])
def test_no_filter_runs(kind, name, tvc, repo, tmp_path):
    """Also where git is not sure of a file and reads it, and where a name has a `=`."""
    marker = tmp_path / "owned"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {marker}\ncat\n")
    program.chmod(0o755)
    (repo / ".gitattributes").write_text(f"* filter={name.split()[0]}\n")
    (repo / "notes.txt").write_text("notes\n")
    git("add", ".gitattributes", "notes.txt")
    git("commit", "-q", "-m", "notes")
    git("config", f"filter.{name.split()[0]}.{kind}", str(program))
    git("config", f"filter.{name.split()[0]}.required", "true")
    for command in (["switch", "listen"], ["switch", "main"], ["merge", "--no-ff", "listen"]):
        os.utime(repo / "recipe.toml", (1, 1))
        if (repo / "notes.txt").exists():
            os.utime(repo / "notes.txt", (1, 1))
        tvc(*command)
        assert not marker.exists(), command
    assert (repo / "notes.txt").read_text() == "notes\n"
