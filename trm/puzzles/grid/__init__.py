"""Grid puzzles of one's own."""
