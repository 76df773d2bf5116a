"""Checks, repairs and cleans a repository."""
