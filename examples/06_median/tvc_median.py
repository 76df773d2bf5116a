"""A merge method from outside tvc: the median of the members, element by element."""

from torch import Tensor

from tvc.merging.method import merge_method

__all__ = ["median"]


@merge_method(
    "median",
    summary="The median of the members, element by element.",
    paper="none: it is an example",
    members=(3, None),
)
def median(deltas: Tensor) -> Tensor:
    """Return the median: what at least half of the members want, whatever an outlier wants.

    Args:
        deltas: (k, *shape), float32 or float64, k at least 3.

    Returns:
        (*shape); for an even k, the mean of the two in the middle.
    """
    ordered = deltas.sort(dim=0).values
    count = len(deltas)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
