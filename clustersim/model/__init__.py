"""What is computed: parameters and arithmetic of a transformer, before anything is divided."""
