"""One thin file per command: options, help, one recipe, output."""
