"""Puzzles as arrays: where they come from, how they are batched and transformed."""
