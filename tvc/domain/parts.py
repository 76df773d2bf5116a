"""Where in a model a tensor is, read from its name: its layer, and which kind of weight it is."""

__all__ = ["kind_of", "layer_of", "natural_key"]


def layer_of(name: str) -> str:
    """Return the layer of a tensor: `model.layers.3.mlp.up_proj.weight` is in `model.layers.3`.

    Tensors that are in no numbered layer are grouped by their module: `model.embed_tokens`.
    """
    segments = name.split(".")
    for index, segment in enumerate(segments):
        if segment.isdigit():
            return ".".join(segments[: index + 1])
    return ".".join(segments[:-1]) or name


def kind_of(name: str) -> str:
    """Return the kind of weight: `model.layers.3.mlp.up_proj.weight` is a `up_proj`.

    A bias is its own kind (`up_proj.bias`); numbers, such as those of experts, are left out.
    """
    words = [segment for segment in name.split(".") if not segment.isdigit()]
    if len(words) > 1 and words[-1] in ("weight", "weight_scale", "weight_scale_inv"):
        return words[-2] if words[-1] == "weight" else ".".join(words[-2:])
    return ".".join(words[-2:])


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts names by the numbers in them: layer 2 comes before layer 10."""
    return tuple(
        (0, len(part), part) if part.isdecimal() else (1, 0, part) for part in name.split(".")
    )
