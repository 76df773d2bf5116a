"""`emr`: EMR-Merging's unified vector.

Its masks and rescalers, one for each task, are absent: a merged model is for no one task.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tvc.merging.method import merge_method
from tvc.merging.mixing import agreeing, tally

__all__ = ["emr", "largest_agreeing"]


def largest_agreeing(members: list[Tensor], positive: Tensor) -> Float[Tensor, "*shape"]:
    """Return, with the elected sign, the largest magnitude among the members that have that sign.

    Args:
        members: Each (*shape).
        positive: (*shape), whether + is elected.
    """
    largest = torch.zeros_like(members[0])
    for member in members:
        candidate = member.abs().masked_fill_(~agreeing(member, positive), 0)
        largest = torch.maximum(largest, candidate)
    return torch.where(positive, largest, -largest)


@merge_method(
    "emr",
    summary="The elected sign, with the largest magnitude that has it.",
    paper="arXiv:2405.17461",
    unit="element",
)
def emr(deltas: Float[Tensor, "k *shape"]) -> Float[Tensor, "*shape"]:
    """Elect the unified vector, Huang et al., section 3.2 (step "Elect").

    A sum of zero elects -, as in the public implementation.

    Args:
        deltas: (k, *shape), float32 or float64.
    """
    members = list(deltas)
    total = tally(members, torch.ones(len(members)), election="mass")
    return largest_agreeing(members, total > 0)
