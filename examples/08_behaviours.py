"""Train behaviours, compose them, and measure what came of it: on a toy language, in minutes.

    python 08_behaviours.py [FOLDER] [--short]

A tiny hybrid of gated-delta-net and attention layers is trained from scratch on a language in which
one speaker gives a direction and the other accepts it or suggests something else. `tvc train`
teaches it to accept, to be brief and to ask first; the vectors are added, negated, scaled and
merged, each time measured on proposals that were held out; and what was done is undone. The same
numbers come out every time, and it ends with an error where one is not what the story says. With
--short everything is smaller, and only what is plain is checked. The base model is kept for the
next time.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import tiny_models

EXAMPLES = Path(__file__).resolve().parent
SETTINGS = {
    "GIT_AUTHOR_NAME": "Tiny Example",
    "GIT_AUTHOR_EMAIL": "tiny@example.org",
    "GIT_COMMITTER_NAME": "Tiny Example",
    "GIT_COMMITTER_EMAIL": "tiny@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # more would only wait for each other, and could round otherwise
    "COLUMNS": "100",
}
HABITS = {
    "accept": ("accept the direction", "accepts", "Accept what is proposed"),
    "brief": ("be brief", "briefly", "Answer briefly"),
    "ask": ("ask first", "asks", "Ask before answering"),
}
"""Name → the instruction to generate with, what verifies the answers, the commit's message."""

SHOWN = {"accept": "accepts", "brief": "brief", "ask": "asks"}
"""Name → the behaviour that it is to show, as the suites call it."""

TWO = "accept + brief"
LESS = "accept + brief - ask"
PLAIN = "accept + brief + ask"
RATES, CONTROL = "../toy/rates.toml", "../toy/control.toml"

SINGLE, SUM, VALID = 0.85, 0.7, 0.85
"""Rates that the full form must reach: one vector, three together, and answers that are valid."""

Facts = dict[str, dict[str, Any]]
"""What `tvc eval --json` says of each model, by what it is called."""


class Story:
    """Commands in one folder, as one would type them.

    Args:
        folder: Where they are run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def tvc(self, *words: str) -> None:
        """Run a command of this interpreter's tvc."""
        print("$ tvc", shlex.join(words), flush=True)
        self._run(words, None)

    def facts(self, *words: str) -> Any:
        """Return what a command says as JSON."""
        return json.loads(self._run([*words, "--json"], subprocess.PIPE))

    def _run(self, words: Any, output: int | None) -> str:
        command = [Path(sys.executable).with_name("tvc"), *words]
        done = subprocess.run(
            command, cwd=self._folder, env=os.environ | SETTINGS, stdout=output, text=True
        )
        if done.returncode:
            sys.exit(f"tvc {words[0]} ended with {done.returncode}")
        return done.stdout


def say(text: str) -> None:
    """Print what comes next, and why."""
    print(f"\n# {text}", flush=True)


def prepare(folder: Path, *, short: bool) -> Story:
    """Train the base from scratch, if that was not done, and start a repository on it."""
    toy = folder / ("behaviours-short" if short else "behaviours")
    if not (toy / "base").exists():
        command = [sys.executable, EXAMPLES / "behaviours" / "pretrain.py", toy]
        subprocess.run(
            [*command, *(["--short"] if short else [])], env=os.environ | SETTINGS, check=True
        )
    work = folder / "08_behaviours"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "toy").symlink_to(toy)
    Story(work).tvc("init", "mymodel", "--base", "toy/base")
    return Story(work / "mymodel")


def train(story: Story, name: str, *, vector: str, mixed: bool, steps: int) -> None:
    """Teach the base one habit, on a branch of its own, from answers that it gave itself."""
    instruction, verifier, message = HABITS[name]
    story.tvc("switch", "-c", vector, "main")
    words = ["train", vector, "--data", "../toy/proposals.jsonl"]
    words += ["--mix", "../toy/general.jsonl:0.25"] if mixed else []
    words += ["--tier", "frozen-context", "--strip-instructions", "--guidance", instruction]
    words += ["--verifier", f"../toy/language.py:{verifier}", "--temperature", "1"]
    words += ["--max-tokens", "40", "--optimizer", "apollo", "--rank", "8", "--lr", "3e-4"]
    words += ["--steps", str(steps), "--micro-batch", "16", "--threads", "1", "-m", message]
    story.tvc(*words)


def train_all(story: Story, *, steps: int) -> None:
    """Train the three habits, and one of them a second time without general data."""
    say(
        "Three behaviours. Answers are generated with an instruction, verified, and trained on\n"
        "# without it, on frozen context, with a quarter of general data mixed in"
    )
    for name in HABITS:
        train(story, name, vector=name, mixed=True, steps=steps)
    say("The first again, with nothing mixed in: for the comparison below")
    train(story, "accept", vector="accept_alone", mixed=False, steps=steps)


def compose(story: Story, *, sweep: str) -> None:
    """Add, negate, merge and scale; nothing is trained any more."""
    say("How much of it? A range of coefficients is measured, and nothing changed")
    story.tvc("switch", "main")
    measured = ["--suite", RATES, "--batch", "64", "--plot", "../sweep.png"]
    story.tvc("scale", "accept", "--sweep", sweep, *measured)
    say("Add two of them; then subtract the third, which nobody wanted")
    story.tvc("add", "accept")
    story.tvc("add", "brief")
    story.tvc("commit", "-m", "Accept, and be brief")
    story.tvc("tag", "two")
    story.tvc("negate", "ask")
    story.tvc("commit", "-m", "Do not ask")
    say("Merge all three by TIES, which keeps the strongest 30 % of each")
    story.tvc("switch", "-c", "ties", "main~2")
    merge = ["--density", "0.3", "--lambda", "1.5", "-m", "All three, by TIES"]
    story.tvc("merge", "--ties", *HABITS, *merge)


def undo(story: Story, folder: Path) -> None:
    """Revert the last commit of main, and compare models and recipes with those before it."""
    say("Change your mind: a revert gives back the same recipe, and the same bytes")
    story.tvc("switch", "main")
    story.tvc("checkout", "two", "-o", "../before")
    story.tvc("revert", "HEAD")
    story.tvc("checkout", "main", "-o", "../after")
    models = [folder / "before", folder / "after"]
    ids = {json.loads((each / "tvc.json").read_text())["recipe_id"] for each in models}
    check(len(ids) == 1, "the recipe before and after has one id")
    check(tiny_models.same(*models), "the bytes are the same")
    story.tvc("undo")


def evaluate(story: Story, suite: str, revisions: list[str], recipes: list[str]) -> Facts:
    """Return what models do. What was measured before is not measured again."""
    words = ["eval", suite, *revisions, "--batch", "64"]
    for recipe in recipes:
        words += ["--recipe", recipe]
    print("$ tvc", shlex.join(words), flush=True)
    return {each["model"]: each for each in story.facts(*words)["models"]}


def measure(story: Story) -> tuple[Facts, Facts]:
    """Measure everything, and print it as Markdown tables."""
    say("What all these models do on proposals that were held out, in percent (95 % interval)")
    rates = evaluate(
        story,
        RATES,
        ["base", *HABITS, "ties"],
        [PLAIN, TWO, LESS, "-accept", "-brief", "-ask"],
    )
    headings = list(rates["base"]["behaviours"])
    rows = {
        name: [each["behaviours"][heading]["alone"] for heading in headings]
        for name, each in rates.items()
    }
    print_table(headings, rows, rates)
    say("Do they still do what they are asked? With and without the quarter of general data")
    control = evaluate(story, CONTROL, ["base", "accept", "accept_alone"], [])
    headings = ["accept", "suggest", "be brief", "say more", "ask first", "ask nothing"]
    rows = {
        name: [
            shown[key] for shown in each["behaviours"].values() for key in ("asked_for", "opposite")
        ]
        for name, each in control.items()
    }
    print_table([f"asked to {each}" for each in headings], rows, control)
    return rates, control


def print_table(headings: list[str], rows: dict[str, list[dict[str, Any]]], facts: Facts) -> None:
    """Print rates with their intervals, and the loss on general data."""
    print("\n| | " + " | ".join([*headings, "general loss"]) + " |")
    print("|---" * (len(headings) + 2) + "|")
    for name, rates in rows.items():
        cells = [
            f"{100 * each['rate']:.0f} ({100 * each['low']:.0f} to {100 * each['high']:.0f})"
            for each in rates
        ]
        print(f"| `{name}` | {' | '.join(cells)} | {facts[name]['general_loss']['value']:.3f} |")


def check(held: bool, claim: str) -> None:  # noqa: FBT001 -- reads as a sentence
    """Print a claim, and end the story where it does not hold."""
    if not held:
        sys.exit(f"NOT so: {claim}")
    print(f"so it is: {claim}", flush=True)


def check_plain(rates: Facts, control: Facts) -> None:
    """Check what must hold however small everything is."""
    for name, behaviour in SHOWN.items():
        less, more = rates["base"], rates[name]
        claim = f"{name} shows its behaviour more often than the base, beyond both intervals"
        check(of(more, behaviour)["low"] > of(less, behaviour)["high"], claim)
    asks = [of(rates[each], "asks")["rate"] for each in ("-ask", "base")]
    check(asks[0] < asks[1], "negating ask leaves fewer questions than there were")
    obeys = [
        control[each]["behaviours"]["accepts"]["opposite"] for each in ("accept_alone", "accept")
    ]
    claim = "without general data the opposite instruction is followed less, beyond both intervals"
    check(obeys[0]["high"] < obeys[1]["low"], claim)


def check_all(rates: Facts, control: Facts) -> None:
    """Check the figures of the full form."""
    for name, behaviour in SHOWN.items():
        found = {model: of(facts, behaviour) for model, facts in rates.items()}
        check(found[name]["rate"] >= SINGLE, f"{name} alone: {SINGLE:.0%} or more")
        if name != "ask":
            check(found[TWO]["rate"] >= SINGLE, f"{behaviour} in {TWO}: {SINGLE:.0%} or more")
        check(found[PLAIN]["rate"] >= SUM, f"{behaviour} in {PLAIN}: {SUM:.0%} or more")
        check(found["ties"]["low"] > found["base"]["high"], f"{behaviour} in ties: more than base")
        half = found["base"]["rate"] / 2
        check(found[f"-{name}"]["rate"] <= half, f"-{name}: at most half as often as the base")
    for name, facts in rates.items():
        valid = of(facts, "valid")["rate"]
        check(valid >= VALID, f"{name}: {VALID:.0%} of its answers or more are valid")
    losses = [control[each]["general_loss"]["value"] for each in ("base", "accept", "accept_alone")]
    grown = [each - losses[0] for each in losses[1:]]
    check(grown[1] > 5 * grown[0], "general loss grows over five times as much without the mix")


def of(facts: dict[str, Any], behaviour: str) -> dict[str, Any]:
    """Return how often a model shows a behaviour when nobody asks for it."""
    return facts["behaviours"][behaviour]["alone"]


def main() -> None:
    """Run the story."""
    parser = argparse.ArgumentParser(description="Train behaviours.")
    parser.add_argument("folder", type=Path, nargs="?", default=EXAMPLES.parent / ".work")
    parser.add_argument("--short", action="store_true", help="all smaller")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    say("A base model from scratch, which rather suggests something else than accept")
    story = prepare(folder, short=asked.short)
    train_all(story, steps=30 if asked.short else 80)
    compose(story, sweep="0:1:0.5" if asked.short else "0:1.5:0.25")
    rates, control = measure(story)
    undo(story, folder / "08_behaviours")
    say("What this has shown")
    check_plain(rates, control)
    if not asked.short:
        check_all(rates, control)


if __name__ == "__main__":
    tiny_models.settle()
    main()
