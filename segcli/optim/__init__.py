"""How weights move: optimisers, schedules, averaging, arithmetic."""
