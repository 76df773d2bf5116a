"""Merge methods over tensors. No files, no git, no names."""
