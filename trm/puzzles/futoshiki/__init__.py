"""Futoshiki: Latin squares with inequalities."""
