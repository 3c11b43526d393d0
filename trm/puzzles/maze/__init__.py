"""Mazes; the answer is a shortest path."""
