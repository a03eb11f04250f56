"""Who computes it: mesh, layers per stage, schedules, memory, speeds of ranks."""
