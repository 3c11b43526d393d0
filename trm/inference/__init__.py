"""Thinking with trained weights, and measuring how well."""
