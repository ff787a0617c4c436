"""`wellfit check`: short runs of a script, each with one thing changed, beside one as it is."""

from wellfit.check.driver import run_check

__all__ = ["run_check"]
