"""Why one operator costs what it costs: parts of its time, its roof, what would help."""
