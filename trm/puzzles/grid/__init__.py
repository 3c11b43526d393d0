"""Grid puzzles of your own."""
