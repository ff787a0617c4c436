"""Models that torch.nn has not. Importing this imports torch; `import wellfit` alone does not."""

from wellfit.nn.rbm import RBM

__all__ = ["RBM"]
