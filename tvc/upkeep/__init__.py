"""Keeping a repository in order: `tvc fsck` and `tvc gc`."""
