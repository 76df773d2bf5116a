"""Help of every command, kept as files; each has an example that parses."""

import re
import shlex

import click
import pytest
from golden_files import check_golden

from tvc.cli.lazy import LazyGroup
from tvc.cli.main import tvc as root


def commands(group: click.Group, path: tuple[str, ...] = ()):
    yield path, group
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None, name
            if isinstance(command, click.Group):
                yield from commands(command, (*path, name))
            else:
                yield (*path, name), command


ALL = dict(commands(root))


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "tvc")
def test_help(path, tvc, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = tvc(*path, "--help")
    assert tvc(*path, "-h") == text
    check_golden(f"help/{'_'.join(path) or 'tvc'}.txt", text)
    assert text.startswith(f"Usage: {' '.join(['tvc', *path])} ")
    assert all(len(line) <= 100 for line in text.splitlines())


@pytest.mark.parametrize("path", ALL, ids=lambda path: " ".join(path) or "tvc")
def test_example_parses(path, tmp_path, monkeypatch):
    """The words of an example are taken by the command that it is an example of."""
    (tmp_path / "Qwen3-tiny").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    command = ALL[path]
    example = re.match(r"Example: (.*)", command.epilog or "")
    assert example, f"{path} has no example"
    line = example[1].split("&&")[0].split(">")[0]
    line = re.sub(r'eval "\$\((.*)\)"', r"\1", line)
    program, *words = shlex.split(line)
    assert program == "tvc"
    assert words[: len(path)] == list(path)
    if not isinstance(command, click.Group):
        command.make_context("tvc", words[len(path) :], resilient_parsing=False)


def test_every_command_is_in_one_section():
    listed = root.list_commands(click.Context(root))
    assert len(listed) == len(set(listed)) == len(root._lazy)
    assert set(listed) == set(root._lazy)


def test_summaries_are_those_of_the_list():
    """What the list says of a command without importing it is about that command."""
    for path, command in ALL.items():
        if path and isinstance(ALL[path[:-1]], LazyGroup):
            assert ALL[path[:-1]]._lazy[path[-1]].summary.endswith((".", "?"))
            assert command.help, path


def test_no_arguments_print_help(tvc):
    assert "Usage: tvc" in tvc()


def test_version(tvc):
    assert re.fullmatch(r"tvc, version \d+\.\d+\.\d+\n", tvc("--version"))
    assert tvc("-V") == tvc("--version")
