"""Runs a plan: tensors in, tensors out. No files, no git."""
