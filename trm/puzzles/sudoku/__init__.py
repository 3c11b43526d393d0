"""Sudoku of any box shape."""
