"""Merge methods: what a sum of task vectors becomes when its terms interfere.

Every method is one decorated function over tensors (see `tvc.merging.method`), found through the
entry points `tvc.merge_methods` (`tvc.merging.registry`). Files, names of tensors, git and recipes
are deliberately absent: a method is told nothing but numbers.
"""

__all__: list[str] = []
