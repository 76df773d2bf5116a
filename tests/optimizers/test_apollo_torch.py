"""Apollo beside the authors' own package, apollo-torch, with its projections, where both claim the same.

It differs on purpose in the rest: its limiter looks at updates before the bias correction, so the two
are compared without a limiter, and with one where there is nothing to correct (betas of 0).

apollo-torch may not be used commercially, and it needs bitsandbytes: neither is installed by this
project. In an environment made for this: `pip install apollo-torch bitsandbytes`.
"""

import importlib.util
import math

import pytest
import torch
from torch import nn

from tvc.optimizers import apollo

MISSING = [n for n in ("apollo_torch", "bitsandbytes") if importlib.util.find_spec(n) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"the yardstick needs {' and '.join(MISSING)}"),
    pytest.mark.filterwarnings("ignore"),  # of the yardstick
]


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.0)], ids=["no limiter", "limiter"])
@pytest.mark.parametrize("shape", [(24, 16), (16, 40), (16, 16)], ids=str)
@pytest.mark.parametrize("rank", [1, 4])
def test_the_same_steps(betas, shape, rank, monkeypatch):
    from apollo_torch import APOLLOAdamW

    limited = betas == (0.0, 0.0)
    torch.manual_seed(0)
    theirs = nn.Parameter(torch.randn(shape) * 0.1)
    ours = nn.Parameter(theirs.detach().clone())
    group = {
        "params": [theirs],
        "rank": rank,
        "proj": "random",
        "proj_type": "std",
        "scale_type": "channel" if rank > 1 else "tensor",
        "scale": min(shape) / rank,  # they take its root
        "update_proj_gap": 50,
    }
    options = {"lr": 0.001, "eps": 1e-12, "betas": betas}
    yardstick = APOLLOAdamW([group], disable_nl=not limited, **options)

    def draw(*, rank, size, **_):
        drawn = yardstick.state[theirs]["projector"].ortho_matrix
        return drawn if drawn.shape == (rank, size) else drawn.mT

    monkeypatch.setattr(apollo, "draw_projection", draw)
    limit = 1.01 if limited else math.inf
    optimizer = apollo.Apollo([("w", ours)], rank=rank, floor=0, keep=0, limit=limit, **options)
    for step in range(120):
        grad = torch.randn(shape) * (1.5 + math.sin(step))
        theirs.grad, ours.grad = grad.clone(), grad.clone()
        yardstick.step()
        optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-7)
