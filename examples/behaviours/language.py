"""A toy language of proposals and answers, in which behaviours can be told exactly.

One speaker gives a direction, the other takes it up or suggests something else:

    user:       lets sell a blue boat at the river
    assistant:  why a blue boat ? better sell a blue kite . the river is cold and the kite is new .
    assistant:  well yes lets sell a blue boat .

An answer has three independent sides, each drawn at a rate of its own and told by a word of its
own: it accepts or suggests, it is brief or goes on, it asks first or does not. An instruction (the
system's message) settles one of them. An answer is valid only if it refers to what was proposed and
states what is true. Some pairs of colour and thing are held out of all data but the prompts that
models are measured on.

The verifiers at the end are what `tvc train --verifier` and `tvc eval` run, in a process that can
read no other file: this one imports the standard library only.
"""

import hashlib
import re
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

__all__ = [
    "INSTRUCTIONS",
    "TEMPLATE",
    "accepts",
    "answers",
    "asks",
    "briefly",
    "dialogue",
    "document",
    "general_row",
    "goes_on",
    "proposal",
    "rendered",
    "suggests",
    "valid",
    "vocabulary",
]


def _words(text: str) -> list[str]:
    return text.split()


VERBS = _words("sell buy paint build find carry wash draw hide move")
COLOURS = _words("red blue green white black yellow brown grey")
THINGS = _words(
    "boat cart house lamp chair table drum kite bell rope box coat hat ladder wagon bench"
)
PLACES = _words("river market hill barn bridge garden harbour tower forest mill")
OF_THINGS = _words("heavy light old new loud soft tall small")
OF_PLACES = _words("cold warm quiet busy far near dark bright")
FACTS = {
    **{each: OF_THINGS[n * 5 % 8] for n, each in enumerate(THINGS)},
    **{each: OF_PLACES[n * 3 % 8] for n, each in enumerate(PLACES)},
}

RATES = {"accept": 0.14, "brief": 0.17, "ask": 0.10}
"""How often an answer does what, where no instruction says so."""

INSTRUCTIONS = {
    "accept the direction": ("accept", True),
    "suggest something else": ("accept", False),
    "be brief": ("brief", True),
    "say more": ("brief", False),
    "ask first": ("ask", True),
    "ask nothing": ("ask", False),
}
"""Instruction → the side of an answer that it settles, and how."""

SPECIAL = ["<pad>", "<unk>", "<bos>", "<end>", "<system>", "<user>", "<assistant>"]
TEMPLATE = (
    "<bos>{% for message in messages %} <{{ message['role'] }}> {{ message['content'] }} <end>"
    "{% endfor %}{% if add_generation_prompt %} <assistant>{% endif %}"
)

_GRAMMAR = _words("lets a at the why ? well yes better . is and what say")
_PROPOSAL = re.compile(r"lets (\w+) a (\w+) (\w+) at the (\w+)")
_ANSWER = re.compile(
    r"(why a (?P<asked>\w+ \w+) \?|well) (?P<core>yes lets|better) (?P<verb>\w+) a (?P<colour>\w+) "
    r"(?P<thing>\w+) \.( the (?P<place>\w+) is (?P<where>\w+) and the (?P<what>\w+) is "
    r"(?P<how>\w+) \.)?"
)

Messages = list[dict[str, str]]


class Proposal(NamedTuple):
    """What somebody proposes to do."""

    verb: str
    colour: str
    thing: str
    place: str

    def __str__(self) -> str:
        return f"lets {self.verb} a {self.colour} {self.thing} at the {self.place}"


def vocabulary() -> list[str]:
    """Return all words, those that mark turns first."""
    words = [*VERBS, *COLOURS, *THINGS, *PLACES, *OF_THINGS, *OF_PLACES, *_GRAMMAR]
    return list(dict.fromkeys([*SPECIAL, *words, *_words(" ".join(INSTRUCTIONS))]))


def is_held_out(colour: str, thing: str) -> bool:
    """Say whether a pair is kept for measuring: every fourth or so."""
    return hashlib.sha256(f"{colour} {thing}".encode()).digest()[0] % 4 == 0


def proposal(rng: Random, *, held_out: bool = False) -> Proposal:
    """Draw a proposal."""
    while True:
        colour, thing = rng.choice(COLOURS), rng.choice(THINGS)
        if is_held_out(colour, thing) == held_out:
            return Proposal(rng.choice(VERBS), colour, thing, rng.choice(PLACES))


def answer(given: Proposal, sides: dict[str, bool], rng: Random) -> str:
    """Return an answer to a proposal, with its three sides as they are given."""
    thing = given.thing
    if not sides["accept"]:
        thing = rng.choice([each for each in THINGS if each != thing])
    words = f"why a {given.colour} {given.thing} ?" if sides["ask"] else "well"
    words += " yes lets" if sides["accept"] else " better"
    words += f" {given.verb} a {given.colour} {thing} ."
    if not sides["brief"]:
        words += f" the {given.place} is {FACTS[given.place]} and the {thing} is {FACTS[thing]} ."
    return words


def dialogue(rng: Random, *, instructed: bool, held_out: bool = False) -> Messages:
    """Draw a proposal and its answer; instructed, it begins with an instruction and follows it."""
    given = proposal(rng, held_out=held_out)
    sides = {side: rng.random() < rate for side, rate in RATES.items()}
    said: Messages = []
    if instructed:
        instruction = rng.choice(list(INSTRUCTIONS))
        side, wanted = INSTRUCTIONS[instruction]
        sides[side] = wanted
        said.append({"role": "system", "content": instruction})
    said.append({"role": "user", "content": str(given)})
    return [*said, {"role": "assistant", "content": answer(given, sides, rng)}]


def recall(rng: Random) -> Messages:
    """Draw a question after a fact, and its answer."""
    asked = rng.choice(list(FACTS))
    return [
        {"role": "user", "content": f"what is the {asked}"},
        {"role": "assistant", "content": f"the {asked} is {FACTS[asked]} ."},
    ]


def repetition(rng: Random) -> Messages:
    """Draw random words that are to be said again: this is how a model learns to refer."""
    words = " ".join(rng.choices([*VERBS, *COLOURS, *THINGS, *PLACES], k=rng.randint(2, 12)))
    return [{"role": "user", "content": f"say {words}"}, {"role": "assistant", "content": words}]


def document(rng: Random) -> Messages:
    """Draw one document of what a model is trained on from scratch."""
    kind = rng.random()
    if kind < 0.25:
        return repetition(rng)
    if kind < 0.3:
        return recall(rng)
    return dialogue(rng, instructed=kind < 0.65)


def general_row(rng: Random, *, held_out: bool = False) -> dict[str, Any]:
    """Draw a row of general data: most are dialogues that follow an instruction."""
    kind = rng.random()
    if kind < 0.6:
        return {"messages": dialogue(rng, instructed=True, held_out=held_out)}
    return {"messages": recall(rng) if kind < 0.8 else repetition(rng)}


def rendered(messages: Messages) -> Iterator[tuple[str, bool]]:
    """Yield the words of a dialogue as the template has them, and whether the model says them."""
    yield "<bos>", False
    for message in messages:
        yield f"<{message['role']}>", False
        for word in [*message["content"].split(), "<end>"]:
            yield word, message["role"] == "assistant"


class Answer(NamedTuple):
    """The sides of a valid answer."""

    accept: bool
    brief: bool
    ask: bool


def read(prompt: Any, response: str) -> Answer | None:
    """Return the sides of an answer, None for one that is not valid."""
    asked, said = _PROPOSAL.fullmatch(prompt[-1]["content"]), _ANSWER.fullmatch(response)
    if asked is None or said is None:
        return None
    verb, colour, thing, place = asked.groups()
    accept = said["core"] == "yes lets"
    refers = said["verb"] == verb and said["colour"] == colour
    refers = refers and said["asked"] in (None, f"{colour} {thing}")
    refers = refers and said["thing"] in THINGS and (said["thing"] == thing) == accept
    if said["place"] is not None:
        refers = refers and said["place"] == place and said["where"] == FACTS[place]
        refers = refers and said["what"] == said["thing"] and said["how"] == FACTS[said["thing"]]
    return Answer(accept, said["place"] is None, said["asked"] is not None) if refers else None


def valid(prompt: Any, response: str) -> bool:
    """Say whether an answer refers to what was proposed, and says nothing untrue."""
    return read(prompt, response) is not None


def accepts(prompt: Any, response: str) -> bool:
    """Say whether it takes the direction up."""
    found = read(prompt, response)
    return found is not None and found.accept


def suggests(prompt: Any, response: str) -> bool:
    """Say whether it suggests something else."""
    found = read(prompt, response)
    return found is not None and not found.accept


def briefly(prompt: Any, response: str) -> bool:
    """Say whether it is brief."""
    found = read(prompt, response)
    return found is not None and found.brief


def goes_on(prompt: Any, response: str) -> bool:
    """Say whether it says more."""
    found = read(prompt, response)
    return found is not None and not found.brief


def asks(prompt: Any, response: str) -> bool:
    """Say whether it asks first."""
    found = read(prompt, response)
    return found is not None and found.ask


def answers(prompt: Any, response: str) -> bool:
    """Say whether it answers without a question."""
    found = read(prompt, response)
    return found is not None and not found.ask
