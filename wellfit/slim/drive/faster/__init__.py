"""Targets of time: other structures of the network, each timed, trained further, and judged from its file."""

from wellfit.slim.drive.faster.driver import Faster

__all__ = ["Faster"]
