"""Structural pruning: passes that remove channels."""
