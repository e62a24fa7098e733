"""One solver per module; each holds only its step."""
