"""One file per job, readable from top to bottom."""
