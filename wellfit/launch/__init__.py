"""Running the user's command with the probe inside, and telling what it showed."""

from wellfit.launch.watched import Options, run_watched

__all__ = ["Options", "run_watched"]
