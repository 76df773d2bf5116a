"""Training: a behaviour becomes a model folder, a difference, and their provenance."""
