"""The error of a file that cannot be read."""

from __future__ import annotations

from wellfit.errors import WellfitError


class Damaged(WellfitError):
    """A `.wfz` file, or a part of one, is damaged, hostile or too new: what is wrong, and where."""
