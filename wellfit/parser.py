"""Reading the words of a command line: our own options, and the command that stands behind them."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from wellfit.errors import WellfitError


class Parser(argparse.ArgumentParser):
    """argparse with errors of one sentence."""

    def __init__(self, verb: str, description: str, **more: Any) -> None:
        self.verb = verb
        super().__init__(prog=f"wellfit {verb}", description=description, allow_abbrev=False, **more)

    def error(self, message: str) -> NoReturn:
        raise WellfitError(f"{message}; see `{self.prog} --help`")


def split(words: list[str], parser: Parser) -> tuple[list[str], list[str]]:
    """Our own options, and the command: it begins at the first word that is no option of ours."""
    takes_value = {name: action.nargs is None for action in parser._actions for name in action.option_strings}
    place = 0
    while place < len(words):
        word = words[place]
        if word == "--":
            return words[:place], words[place + 1 :]
        if not word.startswith("-") or word in ("-m", "-c"):
            break
        name = word.partition("=")[0]
        if name not in takes_value:
            from wellfit.nearest import did_you_mean

            raise WellfitError(
                f"{parser.verb} has no option {word}{did_you_mean(name, takes_value)}; "
                "options of the script stand after it"
            )
        place += 2 if takes_value[name] and "=" not in word else 1
    return words[:place], words[place:]
