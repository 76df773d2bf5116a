"""Moves branches: commit, merge, revert, cherry-pick, rebase, undo."""
