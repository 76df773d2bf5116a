"""The difference that is trained: float32, with weights that are the base plus it, rounded.

A step at a learning rate of 1e-5 is below half a unit in the last place of most bfloat16 weights:
rounded to nearest it is lost, rounded at random it is kept on average and noisy. So the weights are
`w = round(theta0 + delta)`, delta is what the optimizer changes, exactly, and what a task vector
keeps besides the weights.

Decoupled weight decay on delta pulls it to zero, so the weights to the model that they were trained
from and not to the origin: L2-SP, Li et al., arXiv:1802.01483, equation 2, in AdamW's form.

Memory, for every bfloat16 weight that is trained: 2 bytes for theta0 and 4 for delta, and while a
step is made 4 for delta's gradient in place of the weight's 2. Adapters, compensated summation and
stochastic rounding are absent: none of them keeps delta exactly.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from tvc.domain.errors import InputError

__all__ = ["Differences"]


class Differences:
    """theta0 and delta of every weight that is trained, by name.

    Args:
        named_parameters: `model.named_parameters()`; those without `requires_grad` are left out.
            Sharded ones (DTensors) have sharded differences.

    Raises:
        InputError: No weight is trained.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        self._weights = {name: each for name, each in named_parameters if each.requires_grad}
        if not self._weights:
            raise InputError("the model has no weights that can be trained")
        self._bases = {name: each.detach().clone() for name, each in self._weights.items()}
        self._deltas = {
            name: nn.Parameter(torch.zeros_like(each, dtype=torch.float32))
            for name, each in self._bases.items()
        }

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the deltas, float32, under the names of their weights: for an optimizer."""
        yield from self._deltas.items()

    def collect_gradients(self) -> None:
        """Move the gradient of every weight to its delta, in float32; the weight's is freed.

        What is collected adds up, in float32, until the optimizer's `zero_grad`. A weight that had
        none leaves its delta as it is.
        """
        for name, weight in self._weights.items():
            if weight.grad is None:
                continue
            delta, grad = self._deltas[name], weight.grad.float()
            delta.grad = grad if delta.grad is None else delta.grad.add_(grad)
            weight.grad = None

    @torch.no_grad()
    def write_weights(self) -> None:
        """Set every weight to theta0 + delta, rounded once, to nearest and ties to even."""
        for name, weight in self._weights.items():
            base = self._bases[name]
            wide = base.to(torch.promote_types(base.dtype, torch.float32))
            weight.copy_(wide + self._deltas[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the deltas, float32, by name; they are not copies."""
        return {name: each.detach() for name, each in self._deltas.items()}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take over deltas; the weights follow with `write_weights`.

        Args:
            state_dict: float32, of exactly the weights that are trained.

        Raises:
            InputError: A name is missing or too many, or a shape is another.
        """
        different = sorted(self._deltas.keys() ^ state_dict.keys())
        if different:
            raise InputError(f"the difference is of another model: {different[0]} is in one only")
        for name, delta in self._deltas.items():
            if state_dict[name].shape != delta.shape:
                found, wanted = (tuple(each.shape) for each in (state_dict[name], delta))
                raise InputError(f"the difference of {name} is {found}, not {wanted}")
        for name, delta in self._deltas.items():
            delta.copy_(state_dict[name])
