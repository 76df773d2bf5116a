"""Experiments on what is not known of behaviours: each ends in a report with controls."""
