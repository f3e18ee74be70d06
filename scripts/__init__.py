"""Helpers of the repository."""
