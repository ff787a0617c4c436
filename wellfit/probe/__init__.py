"""Everything that lives inside the user's process: the standard library and torch, nothing else."""
