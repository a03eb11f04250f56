"""The front door: commands, tables on stdout, progress and warnings on stderr."""
