"""Options under which a method does what a public implementation does.

A preset is data: `--like mergekit` writes these options into the recipe, and the recipe never names
the preset. Densities and other amounts are not part of one: they are the user's (and where left
out, mergekit's density is 1). Ours keep all elements that equal the threshold; theirs keep an
arbitrary few of them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tvc.domain.errors import InputError
from tvc.merging.options import OptionValue, nearest

__all__ = ["PRESETS", "UnknownPreset", "preset_options"]


class UnknownPreset(InputError):
    """There is no preset of this name."""


_SIGNED = {
    "election": "mass",
    "weights_after_election": False,
}

PRESETS: Final[Mapping[str, Mapping[str, Mapping[str, OptionValue]]]] = MappingProxyType(
    {
        "mergekit": {
            "linear": {"normalize": True},
            "ties": {
                **_SIGNED,
                "scope": "tensor",
                "kept": "at_least_one",
                "zero_sum": "positive",
                "normalize": "weights",
            },
            "dare": {"rescale": "l1"},
            "dare_ties": {**_SIGNED, "rescale": "l1", "normalize": "none"},
            "della": {**_SIGNED, "rescale": "l1", "normalize": "weights"},
            "della_linear": {"rescale": "l1"},
            "breadcrumbs": {"axis": "tensor"},
            "breadcrumbs_ties": {**_SIGNED, "axis": "tensor", "normalize": "none"},
        },
        "peft": {
            "ties": {
                "scope": "tensor",
                "kept": "floor",
                "election": "mass",
                "zero_sum": "positive",
                "normalize": "count",
                "weights_after_election": True,
            },
            "dare": {"rescale": "density"},
            "dare_ties": {
                "rescale": "density",
                "election": "mass",
                "normalize": "count",
                "weights_after_election": True,
            },
        },
        # Each paper's own code.
        "paper": {
            "ties": {
                **_SIGNED,
                "scope": "vector",
                "kept": "one_more",
                "zero_sum": "majority",
                "normalize": "count",
            },
            "dare": {"rescale": "density"},
            "della": {**_SIGNED, "rescale": "density", "normalize": "count"},
            "della_linear": {"rescale": "density"},
            "breadcrumbs": {"axis": "row"},
            "breadcrumbs_ties": {**_SIGNED, "axis": "row", "normalize": "count"},
        },
    }
)
"""By preset, then by method: values for options. A method that is missing has nothing to choose."""


def preset_options(preset: str, method: str) -> Mapping[str, OptionValue]:
    """Return the options that make a method behave like another implementation.

    Args:
        preset: "mergekit", "peft" or "paper".
        method: As recipes write it.

    Raises:
        UnknownPreset: There is no such preset.
    """
    if preset not in PRESETS:
        near = nearest(preset, PRESETS)
        raise UnknownPreset(
            f"no preset {preset!r}",
            hint=f"did you mean {near!r}?" if near else f"known: {', '.join(PRESETS)}",
        )
    return PRESETS[preset].get(method, {})
