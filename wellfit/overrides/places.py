"""Where in the script something is, as it stands in what overrides say they changed."""

from __future__ import annotations

import os

from wellfit.probe.locate import user_place


def here_text() -> str:
    """ " at train.py:12": the nearest line of the user's that led here; empty if there is none."""
    place = user_place(2)
    return f" at {os.path.basename(place[0])}:{place[1]}" if place is not None else ""
