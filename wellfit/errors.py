"""The one exception that wellfit raises on purpose."""


class WellfitError(Exception):
    """Something the user can mend: what was expected, what came, and what to do, in one sentence."""
