"""Which channels hang together: found by watching one forward pass, operation by operation."""

from wellfit.slim.methods.coupled.groups import Coupling, Group, coupling

__all__ = ["Coupling", "Group", "coupling"]
