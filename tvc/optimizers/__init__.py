"""Optimizers of behaviours, and what is known of their steps: tensors only, no files."""
