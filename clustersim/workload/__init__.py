"""In what order: the program of a training step, as shapes and dependencies without seconds."""
