"""Blocks, queues and schedulers of a replica: which tokens a step computes."""
