"""From a configuration to weights: the loop, its step, and what it keeps."""
