"""Scores, all of them derived from streaming counts."""
