"""When it happens: the event engine (SimPy) and the compiled replay of the same program."""
