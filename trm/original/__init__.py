"""The original code's checkpoints and data folders, both ways."""
