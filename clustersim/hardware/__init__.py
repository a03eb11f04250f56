"""What exists: nodes, scale-up domains, fabrics, and the paths through them."""
