"""What tvc train does."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from tvc.behaviours.suite import read_suite
from tvc.checkout.writing import Checkout
from tvc.cli.progress import byte_progress, count_progress, step_progress
from tvc.cli.session import Session
from tvc.cli.work.devices import chosen_device
from tvc.cli.work.evaluating import evaluate
from tvc.cli.work.foreign import containment_teller, server
from tvc.cli.work.live_training import Follower, follower
from tvc.cli.work.recording import say_recorded
from tvc.dialogues.generation import Sampling
from tvc.dialogues.mixing import parse_mix
from tvc.dialogues.verifiers import parse_verifier
from tvc.domain.errors import InputError, StateError
from tvc.domain.names import check_name, printable
from tvc.domain.recipe import recipe_id
from tvc.domain.vector import Scalar
from tvc.models.directory import ModelDirectory
from tvc.models.writer import SHARD_BYTES
from tvc.recording.committing import NameTaken, OtherOrigin, commit_finetune, free_name
from tvc.recording.matching import Allowances
from tvc.repository.objects import Objects, open_objects
from tvc.repository.repository import Repository
from tvc.training.loop import train as train_run
from tvc.training.preparing import Data, Prepared, Responses, prepare_data, step_order
from tvc.training.provenance import provenance_before
from tvc.training.run import NoRun, Run, RunBusy, Task
from tvc.training.settings import Settings
from tvc.training.tiers import choose_tier

__all__ = ["train"]

_TEMPLATES_OWN: Final = frozenset(["add_generation_prompt", "documents", "messages", "tools"])
_ANSWERS_AT_ONCE: Final = 16
_LOOK_SECONDS: Final = 0.2
_RESUMABLE: Final = frozenset(["name", "origin", "message", "no_commit", "resume", "suite"])
_LIVE: Final = frozenset(["live", "live_every", "live_mode", "live_share", "live_key"])


class TrainingFailed(StateError):
    """A process of the training ended before its time."""


def train(session: Session, *, name: str, resume: bool, discard: bool, **options: Any) -> None:
    """Do what `tvc train` says; its options are the command's."""
    check_name(name)
    repository = session.repository()
    run = Run.named(repository.layout.private / "training", name)
    if discard and not resume and options["data"] is None:
        _forget(session, run, name)
        return
    _check_asked(run, options, resume=resume)
    _check_place(session, repository, name, options)
    follows = options["live"] is not None or options["live_share"]
    live = follower(session, repository, run, name, options) if follows else None
    with run.held() as lock:
        if not resume:
            _make_way(run, name, discard=discard)
            try:
                _prepare(session, repository, run, name, options)
            except BaseException:
                run.remove()
                raise
        task = run.task()
        if not run.model.exists():
            with step_progress(session, "training", task.settings.steps) as tell:
                _train(run, task.settings, lock, tell, live)
        if options["no_commit"]:
            session.say(f"trained: {os.path.relpath(run.model, session.folder)}")
            session.say(f"  commit it with: tvc commit {_shown(session, run)} --name {name} -m …")
            return
        commit = _commit(session, repository, run, name, options)
        run.remove()
    try:
        if live is not None:
            live.finish(commit)
    finally:
        if options["suite"] is not None:
            _evaluate(session, options)


def _check_asked(run: Run, options: dict[str, Any], *, resume: bool) -> None:
    """Check that all was said that the training needs, and nothing that it has already."""
    if resume:
        _refuse_new_numbers()
        run.task()  # before there is a folder for it
    elif options["data"] is None:
        raise click.UsageError("say what to train on: --data FILE")
    elif not (options["message"] or "").strip() and not options["no_commit"]:
        raise click.UsageError("say what the commit is for: -m MESSAGE")


def _check_place(
    session: Session, repository: Repository, name: str, options: dict[str, Any]
) -> None:
    """Check what the commit will want, and the suite: better now than after hours."""
    try:
        free_name(repository.state_at("HEAD"), name)
    except NameTaken as error:
        # Killed between the commit and the end: all is well, and something is left.
        left = Run.named(repository.layout.private / "training", name).path.exists()
        hint = f"what is left of its training is removed by: tvc train {name} --discard"
        raise NameTaken(error.message, hint=hint if left else error.hint) from None
    if not options["no_commit"]:
        with repository.change(session.command_line, waiting=session.waiting) as change:
            change.require_clean()
    if options["suite"] is not None:
        read_suite(options["suite"])


def _evaluate(session: Session, options: dict[str, Any]) -> None:
    evaluate(
        session,
        suite=options["suite"],
        revisions=("HEAD~1", "HEAD"),
        recipes=(),
        matrix=False,
        no_distance=False,
        as_json=False,
        rerun=False,
        answers=None,
        judge=options["judge"],
        judge_model=options["judge_model"],
        device=options["device"],
        batch=_ANSWERS_AT_ONCE,
    )


def _forget(session: Session, run: Run, name: str) -> None:
    """Remove a run, whether it was stopped or committed by `tvc commit`."""
    if not run.path.exists():
        raise NoRun(f"there is no training of {name!r} to forget")
    with run.held():
        run.remove()
    session.say(f"forgot the training of {name}")


def _refuse_new_numbers() -> None:
    """Refuse numbers for a training that has its own."""
    context = click.get_current_context()
    given = [
        parameter
        for parameter in context.params
        if parameter not in _RESUMABLE | _LIVE
        and context.get_parameter_source(parameter) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise click.UsageError(f"--resume goes on with the numbers it has: {option} is too many")


def _make_way(run: Run, name: str, *, discard: bool) -> None:
    if run.is_prepared and not discard:
        raise RunBusy(
            f"a training of {name!r} was stopped before it was committed",
            hint=f"go on with `tvc train {name} --resume`, or add --discard to forget it",
        )
    run.clear()


def _prepare(
    session: Session, repository: Repository, run: Run, name: str, options: dict[str, Any]
) -> None:
    """Write everything into the run's folder that the training needs."""
    commit = repository.git.resolve(options["origin"])
    state = repository.state_at(commit)
    with open_objects(repository.layout) as store:
        planned = Checkout(Objects(store, state), state.recipe, commit=commit)
        with byte_progress(session, "checking out", planned.work_bytes) as on_bytes:
            planned.write(run.base, title=name, shard_size=SHARD_BYTES, on_bytes=on_bytes)
    data = _data(session, options)
    with count_progress(session, "responses generated") as advance:
        prepared = prepare_data(data, run.base, seed=options["seed"], on_said=advance)
    _say_data(session, prepared)
    shares = [share for _, share in data.mixes]
    order = step_order(
        prepared,
        shares,
        seed=options["seed"],
        batch=options["batch"],
        epochs=options["epochs"],
        steps=options["steps"],
    )
    settings = _settings(options, prepared, len(order))
    command = _command(name, options, settings, commit)
    provenance = prepared.provenance | provenance_before(settings, command)
    task = Task(settings, recipe_id(planned.normal), commit, provenance, options["message"] or "")
    run.prepare(task, prepared.examples, order)


def _data(session: Session, options: dict[str, Any]) -> Data:
    mixes: list[tuple[Path, Fraction]] = []
    for text in options["mixes"]:
        file, share = parse_mix(text)
        mixes.append((Path(file), share))
    responses = None
    if options["strip_instructions"] or options["guidance"]:
        responses = _responses(session, options)
    elif options["verifier"] or options["endpoint"] or options["save_data"]:
        raise click.UsageError("--verifier, --endpoint, --save-data: with --strip-instructions")
    variables = dict(map(_variable, options["template"]))
    return Data(options["data"], tuple(mixes), responses, options["window"], variables)


def _variable(text: str) -> tuple[str, Scalar]:
    """Read NAME=VALUE: true, false, a number, or else a text."""
    name, sign, value = text.partition("=")
    if not sign or not name.isidentifier() or name in _TEMPLATES_OWN:
        raise InputError(
            f"--template: {printable(text)!r} is not NAME=VALUE of a variable of one's own",
            hint="write --template enable_thinking=false",
        )
    try:
        found = json.loads(value)
    except ValueError:
        found = value
    return name, found if isinstance(found, str | int | float | bool) else value


def _responses(session: Session, options: dict[str, Any]) -> Responses:
    verifier = options["verifier"]
    return Responses(
        guidance=_guidance(session.folder, options["guidance"] or ""),
        verifier=parse_verifier(verifier, folder=session.folder) if verifier else None,
        endpoint=server(options["endpoint"], options["endpoint_model"], option="--endpoint-model"),
        judge=server(options["judge"], options["judge_model"], option="--judge-model"),
        on_contained=containment_teller(session),
        sampling=Sampling(tokens=options["max_tokens"], temperature=options["temperature"]),
        samples=options["samples"],
        tries=options["tries"],
        saved=options["save_data"],
    )


def _guidance(folder: Path, text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return (folder / text[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--guidance: {printable(text[1:])} cannot be read: {error}") from None


def _settings(options: dict[str, Any], prepared: Prepared, steps: int) -> Settings:
    tier: str = options["tier"]
    threads = options["threads"] or max(1, (os.cpu_count() or 1) // options["processes"])
    plain = ("optimizer", "rank", "multiplier", "lr", "weight_decay", "clip", "schedule", "warmup")
    more = ("batch", "micro_batch", "checkpoint_decisions", "seed", "keep_delta", "processes")
    return Settings(
        **{key: options[key] for key in (*plain, *more)},
        tier=str(choose_tier(prepared.examples)) if tier == "auto" else tier,
        steps=steps,
        checkpoint_every=options["checkpoint_every"],
        threads=threads,
        device=chosen_device(options["device"]),
    )


def _command(name: str, options: dict[str, Any], settings: Settings, commit: str) -> str:
    """Return what repeats the training, with every number that it depends on."""
    words = ["tvc", "train", name, "--from", commit, "--data", str(options["data"])]
    for option in ("mix", "template"):
        for value in options["mixes" if option == "mix" else option]:
            words += [f"--{option}", value]
    if options["strip_instructions"]:
        words.append("--strip-instructions")
    asked = ("guidance", "verifier", "endpoint", "endpoint_model", "judge", "judge_model")
    generating = ("samples", "tries", "temperature", "max_tokens")
    strips = options["strip_instructions"] or options["guidance"]
    for key in (*asked, *(generating if strips else ())):
        if options[key] is not None:
            words += [f"--{key.replace('_', '-')}", str(options[key])]
    for key, value in settings.to_json().items():
        if key == "checkpoint_decisions":
            words += ["--checkpoint-decisions"] if value else []
        else:
            words += [f"--{key.replace('_', '-')}", str(value)]
    words += ["--window", str(options["window"]), "-m", options["message"] or name]
    return printable(shlex.join(words), limit=4000)


def _say_data(session: Session, prepared: Prepared) -> None:
    counts = prepared.counts
    if counts and counts.asked:
        session.say(
            f"{counts.generated} responses generated for {counts.asked} rows: "
            f"{counts.accepted} accepted, {counts.rejected} rejected, {counts.unended} cut off, "
            f"{counts.empty} empty; {counts.asked - counts.answered} rows are left without one"
        )
    rows = " + ".join(map(str, prepared.sizes))
    tokens = sum(len(decision) for each in prepared.examples for decision in each.decisions)
    session.say(f"{rows} rows, {tokens} tokens to train on")


def _train(
    run: Run,
    settings: Settings,
    lock: int | None,
    tell: Callable[[int, str], None],
    live: Follower | None,
) -> None:
    if settings.processes == 1:
        train_run(
            run,
            on_step=lambda step: tell(step.step, f"loss {step.loss:.4f}"),
            on_weights=None if live is None else partial(live.follow, run),
        )
        return
    run.failure.unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(settings.processes), "-m", "tvc.cli.work.train_worker", str(run.path)]
    environment = os.environ | {"OMP_NUM_THREADS": str(settings.threads)}
    # The lock goes with them, so that nobody begins the same while they outlive a killed tvc.
    inherited = () if lock is None else (lock,)
    with (run.path / "processes.log").open("wb") as words:
        workers = subprocess.Popen(
            command, stdout=words, stderr=words, env=environment, pass_fds=inherited
        )
        try:
            while workers.poll() is None:
                time.sleep(_LOOK_SECONDS)
                said = run.said_last()
                if said is not None:
                    tell(said["step"], f"loss {said['loss']:.4f}")
        finally:
            workers.terminate()
            workers.wait()
    _raise_failure(run, workers.returncode)


def _raise_failure(run: Run, returned: int) -> None:
    """Say what one of several processes left word of."""
    if run.failure.exists():
        left = json.loads(run.failure.read_bytes())
        error = TrainingFailed(left["error"], hint=left["hint"])
        error.exit_code = left["exit_code"]
        raise error
    if returned or not run.model.exists():
        raise TrainingFailed(
            f"the processes of the training ended with {returned}",
            hint=f"their words are in {run.path / 'processes.log'}; --resume goes on",
        )


def _commit(
    session: Session, repository: Repository, run: Run, name: str, options: dict[str, Any]
) -> str:
    """Commit the result, and return the commit's hash."""
    task, origin = run.task(), options["origin"]
    model = ModelDirectory.open(run.model)
    total = sum(entry.spec.nbytes for entry in model.entries.values())
    with (
        repository.change(session.command_line, waiting=session.waiting) as change,
        byte_progress(session, "recording", total) as on_bytes,
    ):
        try:
            done = commit_finetune(
                change,
                model,
                name=name,
                message=options["message"] or task.message,
                allowed=Allowances(),
                origin=None if origin == "HEAD" else origin,
                on_bytes=on_bytes,
            )
        except OtherOrigin as error:
            again = f"tvc train {name} --resume --from {task.origin[:10]}"
            raise OtherOrigin(error.message, hint=f"commit it nevertheless: {again}") from None
    say_recorded(session, change, done)
    measured = done.recorded.record.measured
    session.say(f"  loss {measured['loss_first']} at first, {measured['loss_last']} at last")
    return done.commit


def _shown(session: Session, run: Run) -> str:
    return shlex.quote(os.path.relpath(run.model, session.folder))
