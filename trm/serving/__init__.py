"""Solving for many at once: requests whose rows share forward passes, and the HTTP door to them."""
