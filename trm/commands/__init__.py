"""The verbs of the command `trm`, one file each. Torch is imported inside them: `--help` answers at once."""
