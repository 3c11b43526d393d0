"""ARC-AGI tasks."""
