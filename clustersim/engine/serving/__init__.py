"""One replica of a serving engine: its queue, its running sequences and its KV cache over time."""
