"""How the matrix that Apollo sees lies in memory, and what of it is in which process.

A weight (rows, columns) is seen as m x n with m <= n; its n columns are the channels. FSDP2 shards
the rows of weights (DTensors; at most one dimension may be sharded):

- a **tall** weight, rows >= columns, has its rows for channels. They are shared out, and no process
  needs anything of the others to project and to scale its own;
- of a **wide** one every process has some of the m rows of all channels. It projects them with its
  part of P, and the sum of what all have, r x n, is one all-reduce;
- the matrices of **experts**, (experts, rows, columns), are shared out whole.

The norm of the update takes one all-reduce of one number, and at rank 1 the scale of a tall weight
one of three; experts need none. Moments lie as the channels do, so those of a wide weight are in
every process. They are DTensors, so that distributed checkpoints know how they lie.

Absent: what is computed (tvc/optimizers/apollo.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.distributed.tensor import zeros as sharded_zeros  # pyright: ignore[reportUnknownVariableType] -- torch leaves its sizes untyped

from tvc.domain.errors import InputError

__all__ = ["Layout", "gradient_of", "local", "norm_of"]


def local(tensor: Tensor) -> Tensor:
    """Return what is in this process; of a plain tensor, all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gradient_of(weight: Tensor) -> Tensor:
    """Return what is in this process of the gradient, lying as its weight does."""
    grad = weight.grad
    assert grad is not None
    if isinstance(weight, DTensor) and isinstance(grad, DTensor):
        grad = grad.redistribute(weight.device_mesh, weight.placements)
    return local(grad)


def norm_of(tensor: Tensor, *, over: tuple[int, ...]) -> Tensor:
    """Return the 2-norm over some dimensions, which are kept as 1.

    torch takes ten times as long for it on the CPU where the numbers lie apart in memory, as those
    of the columns of a wide weight; there their squares are made.
    """
    if over == (-2,) and tensor.stride(-2) != 1:
        return tensor.square().sum(over, keepdim=True).sqrt_()
    return cast("Tensor", torch.linalg.vector_norm(tensor, dim=over, keepdim=True))


@dataclass(frozen=True, slots=True)
class Layout:
    """How the m x n view of a weight lies.

    Args:
        weight: (rows, columns), or (experts, rows, columns).
        tall: Whether rows are the channels, so that the view is turned.
        sharded: The dimension of the weight that is sharded, counted from the end; 0 for none.
        part: Which part of that dimension is here.
        group: The processes that it is spread over.
    """

    weight: Tensor
    tall: bool
    sharded: int
    part: slice
    group: dist.ProcessGroup | None

    @classmethod
    def of(cls, name: str, weight: Tensor) -> "Layout":
        """Find the layout of a weight.

        Args:
            name: Of the weight, for messages.
            weight: (rows, columns), or (experts, rows, columns).

        Raises:
            InputError: It is sharded in several dimensions, or not in even parts.
        """
        tall = weight.shape[-2] >= weight.shape[-1]
        placements = _placements(weight)
        sharded = [index for index, place in enumerate(placements) if place != Replicate()]
        if not isinstance(weight, DTensor) or not sharded:
            return cls(weight, tall, 0, slice(None), None)
        place, axis = placements[sharded[0]], sharded[0]
        if len(sharded) > 1 or type(place) is not Shard:
            raise InputError(
                f"Apollo cannot train {name}: it lies as {placements}",
                hint="shard a weight in one dimension at most, as fully_shard does",
            )
        mesh = weight.device_mesh
        dimension = cast("int", place.dim)  # torch leaves it untyped
        each = -(-weight.shape[dimension] // mesh.size(axis))  # as torch.chunk divides
        start = each * mesh.get_local_rank(axis)
        part = slice(start, start + each)
        return cls(weight, tall, dimension - weight.ndim, part, mesh.get_group(axis))

    @property
    def _channels(self) -> int:
        return -2 if self.tall else -1

    @property
    def small(self) -> int:
        """The size m of the whole weight."""
        return self.weight.shape[-3 - self._channels]

    @property
    def rows(self) -> slice:
        """Which of the m rows of the view are here."""
        return self.part if self.sums else slice(None)

    @property
    def sums(self) -> bool:
        """Whether the m rows are spread over processes, so that projections have to be summed."""
        return self.sharded == -3 - self._channels

    @property
    def spread(self) -> bool:
        """Whether channels are spread over processes."""
        return self.sharded == self._channels

    @property
    def experts(self) -> Sequence[int | None]:
        """The numbers of the matrices that are here: of experts, or None for a single matrix."""
        if self.weight.ndim == 2:
            return (None,)
        every = range(self.weight.shape[0])
        return every[self.part] if self.sharded == -3 else every

    def view(self, tensor: Tensor) -> Tensor:
        """Return what lies as the weight does as (…, m, n)."""
        return tensor.mT if self.tall else tensor

    def total(self, tensor: Tensor, *, shared: bool) -> Tensor:
        """Return the sum over the processes, if it is shared between them; in place."""
        if shared:
            dist.all_reduce(tensor, group=self.group)
        return tensor

    def norm(self, tensor: Tensor, *, over: tuple[int, ...], shared: bool) -> Tensor:
        """Return the norm over some dimensions, which are kept as 1.

        Args:
            tensor: (…, k, n), what is here of it.
            over: The dimensions.
            shared: Whether the rest of it is in other processes.
        """
        norm = norm_of(tensor, over=over)
        return self.total(norm.square_(), shared=True).sqrt_() if shared else norm

    def moment(self, rank: int) -> Tensor:
        """Return zeros of (…, rank, n), float32, that lie as the channels do."""
        *stack, _, _ = self.weight.shape
        return self._zeros((*stack, rank, self.weight.shape[self._channels]), self._channels)

    def numbers(self) -> Tensor:
        """Return a zero for each matrix, (…, 1, 1), float32."""
        *stack, _, _ = self.weight.shape
        return self._zeros((*stack, 1, 1), None)

    def _zeros(self, shape: tuple[int, ...], channels: int | None) -> Tensor:
        """Make zeros, sharded by experts as the weight is, and by channels along the last axis."""
        weight = self.weight
        if not isinstance(weight, DTensor):
            return torch.zeros(shape, device=weight.device)
        kept: dict[int | None, Placement] = {-3: Shard(0), channels: Shard(len(shape) - 1)}
        place = kept.get(self.sharded, Replicate())
        places = [Replicate() if each == Replicate() else place for each in _placements(weight)]
        return sharded_zeros(
            *shape, dtype=torch.float32, device_mesh=weight.device_mesh, placements=places
        )


def _placements(weight: Tensor) -> tuple[Placement, ...]:
    found = weight.placements if isinstance(weight, DTensor) else ()
    return cast("tuple[Placement, ...]", found)
