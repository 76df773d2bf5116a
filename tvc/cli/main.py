"""The entry point: a lazy table of commands, and the one boundary that prints errors.

Commands are imported when they are called, so that `tvc log` loads no torch. Exit codes: 0 done,
1 user error, 3 integrity, 4 conflict, 70 bug.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import Final

import click

from tvc import __version__
from tvc.cli.lazy import Lazy, LazyGroup
from tvc.cli.session import Session
from tvc.domain.errors import InputError
from tvc.domain.names import printable
from tvc_store.errors import TvcError

__all__ = ["main", "tvc"]

_BUG: Final = 70
_OPTIONAL: Final = frozenset(["jinja2", "matplotlib", "safetensors", "transformers"])
"""What only training and evaluation need."""
# Set by git for its hooks and aliases: they would point our own calls at another repository.
_GIT_LOCAL: Final = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)


_COMMANDS: Final = {
    "init": Lazy("tvc.cli.starting:init", "Start a repository on a base model."),
    "commit": Lazy("tvc.cli.recording:commit", "Record a fine-tune, or the edited recipe."),
    "import": Lazy("tvc.cli.adapters:import_", "Take in a LoRA adapter as a vector."),
    "export": Lazy("tvc.cli.adapters:export", "Write an adapter out again."),
    "status": Lazy("tvc.cli.inspecting:status", "Say what the recipe is and what was edited."),
    "log": Lazy("tvc.cli.inspecting:log", "Show the history."),
    "show": Lazy("tvc.cli.inspecting:show", "Show a commit: its recipe and what it changed."),
    "diff": Lazy("tvc.cli.comparing:diff", "Show the difference of two recipes."),
    "vectors": Lazy("tvc.cli.vectors:vectors", "List and inspect task vectors."),
    "add": Lazy("tvc.cli.editing:add", "Add a vector to the recipe."),
    "negate": Lazy("tvc.cli.editing:negate", "Turn a term of the recipe around."),
    "scale": Lazy("tvc.cli.editing:scale", "Set the coefficient of a term."),
    "remove": Lazy("tvc.cli.editing:remove", "Remove a term from the recipe."),
    "branch": Lazy("tvc.cli.branching:branch", "List, make, rename or delete branches."),
    "switch": Lazy("tvc.cli.branching:switch", "Go to another branch."),
    "tag": Lazy("tvc.cli.branching:tag", "List, make or delete tags."),
    "merge": Lazy("tvc.cli.merging:merge", "Merge branches, plainly or by a method such as TIES."),
    "revert": Lazy("tvc.cli.replaying:revert", "Take back what a commit changed, exactly."),
    "cherry-pick": Lazy("tvc.cli.replaying:cherry_pick", "Repeat what a commit changed."),
    "rebase": Lazy("tvc.cli.replaying:rebase", "Put the recipe on another base model."),
    "undo": Lazy("tvc.cli.operations:undo", "Take back the last command."),
    "op": Lazy("tvc.cli.operations:op", "List operations, or go back to one."),
    "train": Lazy("tvc.cli.training:train", "Train a behaviour, and commit it as a vector."),
    "sharpness": Lazy(
        "tvc.cli.sharpness:sharpness", "Measure how the loss curves along optimizers' steps."
    ),
    "eval": Lazy("tvc.cli.evaluating:evaluate", "Measure which behaviours models show."),
    "bisect": Lazy("tvc.cli.bisecting:bisect", "Find what brought a behaviour in."),
    "lab": Lazy("tvc.cli.laboratory:lab", "Experiments on what is not known of behaviours."),
    "checkout": Lazy("tvc.cli.checkout:checkout", "Write a model directory."),
    "serve": Lazy("tvc.cli.serving:serve", "Start vLLM on a commit."),
    "push-live": Lazy("tvc.cli.serving:push_live", "Make a running server another commit."),
    "live": Lazy("tvc.cli.serving:live", "Say which commit a server serves; load adapters."),
    "fsck": Lazy("tvc.cli.upkeep:fsck", "Check every object, and mend what can be mended."),
    "gc": Lazy("tvc.cli.upkeep:gc", "Remove objects that nothing needs."),
    "doctor": Lazy("tvc.cli.doctor:doctor", "Say what tvc runs on, and what is missing."),
    "completion": Lazy("tvc.cli.completion:completion", "Print shell completion."),
}
_SECTIONS: Final = {
    "Start and record": ["init", "commit", "import", "export"],
    "Look": ["status", "log", "show", "diff", "vectors"],
    "Edit the recipe": ["add", "negate", "scale", "remove"],
    "Branch and merge": [
        "branch",
        "switch",
        "tag",
        "merge",
        "revert",
        "cherry-pick",
        "rebase",
        "undo",
        "op",
    ],
    "Train and measure": ["train", "eval", "bisect", "sharpness", "lab"],
    "Write a model": ["checkout"],
    "Serve": ["serve", "push-live", "live"],
    "Keep in order": ["fsck", "gc", "doctor", "completion"],
}


class _ReaderGone(Exception):
    """Whoever read our output went away. click would take a BrokenPipeError for a failure."""


class _Root(LazyGroup):
    """The group of all commands, which notices in time that nobody reads on."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command, and write out all that it said."""
        try:
            found = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise _ReaderGone from None
        return found


@click.group(
    cls=_Root,
    lazy=_COMMANDS,
    sections=_SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Example: tvc init mymodel --base ./Qwen3-tiny",
)
@click.version_option(__version__, "-V", "--version", prog_name="tvc")
@click.option("-C", "folder", metavar="DIR", default=".", help="Work in DIR.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no remarks.")
@click.option("--no-pager", is_flag=True, help="Do not page long output.")
@click.option(
    "--lock-timeout",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for another tvc that is changing the repository.",
)
@click.pass_context
def tvc(
    context: click.Context, *, folder: str, quiet: bool, no_pager: bool, lock_timeout: float
) -> None:
    """Version control for the personality of language models.

    A behavioural fine-tune is a task vector: a model minus the one that it was trained from. A
    recipe is a base model plus a signed sum of vectors, and a commit stores the recipe. `tvc
    checkout` makes it weights.
    """
    place = Path(folder)
    if not place.is_dir():
        raise click.UsageError(f"-C: there is no folder {folder!r}")
    if folder != ".":
        os.chdir(place)
    context.obj = Session(Path.cwd(), quiet, not no_pager, lock_timeout)


def main() -> None:
    """Run tvc and exit."""
    for name in _GIT_LOCAL:
        os.environ.pop(name, None)
    # Our own threads keep all cores busy; those of NumPy's would spin while they wait for more.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    try:
        _check_text(arguments)
        return tvc.main(args=arguments, prog_name="tvc", standalone_mode=False) or 0
    except TvcError as error:
        _print_error(error.message, error.hint)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        _print_error(
            error.format_message(), f"see: {context.command_path} --help" if context else None
        )
        return 1
    except (click.Abort, KeyboardInterrupt):
        _print_error("interrupted; nothing is left half done", None)
        return 130
    except _ReaderGone:
        # The reader of our output went away: nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        _print_error("there is not enough memory", "see what is needed with --dry-run")
        return 1
    except Exception as error:  # noqa: BLE001 -- the boundary: what arrives here is a bug, and is said to be one
        if isinstance(error, ModuleNotFoundError) and error.name in _OPTIONAL:
            _print_error(f"{error.name} is not installed", "pip install 'tvc[train]'")
            return 1
        traceback.print_exc()
        _print_error("this is a bug in tvc", "report it with the lines above")
        return _BUG


def _check_text(arguments: list[str]) -> None:
    """Refuse bytes that are no text, since names, messages and paths are kept as text."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(f"{printable(argument)!r} is not UTF-8") from None


def _print_error(message: str, hint: str | None) -> None:
    # None: click leaves colours out where standard error is no terminal.
    color = False if os.environ.get("NO_COLOR") else None
    error = click.style("error:", fg="red", bold=True)
    click.echo(f"{error} {_plain(message)}", err=True, color=color)
    if hint:
        click.echo(f"{click.style('hint:', fg='yellow')} {_plain(hint)}", err=True, color=color)


def _plain(text: str) -> str:
    """Return text whose only control characters are ends of lines, whatever it quotes."""
    return "\n".join(printable(line, limit=2000) for line in text.split("\n"))
