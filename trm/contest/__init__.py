"""ARC Prize: predictions, votes, submissions."""
