"""`python -m wellfit`, and the program behind the command `wellfit`."""

import os
import sys


def program() -> int:
    """Run the command line on our own modules: a `json.py` in the current folder is for the script, not for us."""
    standard = os.path.dirname(os.path.abspath(os.__file__))
    own = [entry for entry in sys.path if entry == standard or entry.startswith(standard + os.sep + "lib-")]
    if sys.path[0] in ("", _current_folder()):  # Python put it there for -m; the package itself knows where it is
        del sys.path[0]
    sys.path[:] = own + [entry for entry in sys.path if entry not in own]
    from wellfit.cli import main

    return main()


def _current_folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(program())
