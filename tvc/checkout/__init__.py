"""Writes a recipe as a model directory."""
