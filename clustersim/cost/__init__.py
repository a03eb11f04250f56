"""How long it takes alone, and what it occupies: kernels, collectives, whole programs."""
