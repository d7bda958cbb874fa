"""Where events, tables and pictures go."""
