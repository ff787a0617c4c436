"""`wellfit slim train.py`: short runs of a script under overrides, from which a small file and its proof come."""

from wellfit.slim.drive.driver import run_slim
from wellfit.slim.drive.options import SlimOptions, budget_of

__all__ = ["SlimOptions", "budget_of", "run_slim"]
