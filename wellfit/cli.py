"""The command line: one function for each verb."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wellfit import __version__
from wellfit.errors import WellfitError
from wellfit.parser import Parser, split

if TYPE_CHECKING:
    from wellfit.finding import Finding
    from wellfit.launch import Options
    from wellfit.record import Run

FORMATS = ("text", "json", "sarif", "github")

_HELP = """\
wellfit watches a PyTorch training run and says what is ill, where, and what helps.

  wellfit run train.py --lr 3        run a script (or -m module, torchrun ..., any command) under watch
  wellfit run --override lr=0.01 train.py    the same with something changed, the script left alone
  wellfit check train.py             try a script in short runs: can it learn one batch, does it need its input, ...
  wellfit slim train.py              make its network small: a file, and the proof of what it is worth
  wellfit overrides                  all that can be changed
  wellfit rules                      all illnesses it knows
  wellfit rule dead-units            one of them: what, why, cure, thresholds
  wellfit runs                       the runs recorded below this folder
  wellfit diagnose RUN               judge a recorded run, or a report.json of slim, again
  wellfit report RUN                 write its HTML page again
  wellfit new-rule NAME              the skeleton of a rule of your own

`wellfit run --help` lists the options. Nothing leaves this machine.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code (2 where the command itself was wrong)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            _write(_HELP)
            return 0
        if words[0] in ("--version", "-V"):
            _write(f"wellfit {__version__}\n")
            return 0
        verb = _VERBS.get(words[0])
        if verb is None:
            raise WellfitError(_unknown_verb(words[0]))
        return verb(words[1:])
    except WellfitError as error:
        sys.stderr.write(f"wellfit: {' '.join(str(error).split())}\n")
        return 2
    except BrokenPipeError:  # `wellfit rules | head`
        _silence_stdout()
        return 0


def run(words: list[str]) -> int:
    """`wellfit run`: a command under watch."""
    from wellfit.launch import run_watched

    return run_watched(_run_options(words, _run_parser("run"))[0])


def check(words: list[str]) -> int:
    """`wellfit check`: short runs of a script under one change each."""
    from wellfit.check import run_check

    parser = _run_parser("check")
    parser.add_argument(
        "--steps", type=_positive, metavar="N", default=300, help="optimizer steps of each run (default 300)"
    )
    parser.add_argument(
        "--time", type=_seconds, metavar="SECONDS", default=600.0, help="all runs together take no more (default 600)"
    )
    options, given = _run_options(words, parser)
    return run_check(options, given.steps, given.time)


def slim(words: list[str]) -> int:
    """`wellfit slim`: a small file of a script's network."""
    from wellfit.slim.command import run_command

    return run_command(words)


def rules(words: list[str]) -> int:
    """`wellfit rules`: the table of all rules."""
    parser = Parser("rules", "List all rules.")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = _parsed_table(parser, words, "rule")
    from wellfit.catalogue import known_rules

    known, problems = known_rules()
    for problem in problems:
        sys.stderr.write(f"wellfit: {problem}\n")
    if options.format == "json":
        from wellfit.rule_page import rule_json

        _write(_json([rule_json(rule) for rule in known]))
        return 0
    width = max((len(rule.name) for rule in known), default=0)
    family = max((len(rule.family) for rule in known), default=0)
    _write("".join(f"{rule.code:<8} {rule.name:<{width}}  {rule.family:<{family}}  {rule.summary}\n" for rule in known))
    return 0


def rule(words: list[str]) -> int:
    """`wellfit rule NAME`: its page."""
    parser = Parser("rule", "Show the page of a rule: what it checks, why it hurts, the cure, the thresholds.")
    parser.add_argument("name", help="its name or code")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args(words)
    from wellfit.catalogue import find_rule
    from wellfit.rule_page import rule_json, rule_text

    found = find_rule(options.name)
    _write(_json(rule_json(found)) if options.format == "json" else rule_text(found))
    return 0


def new_rule(words: list[str]) -> int:
    """`wellfit new-rule NAME`: the skeleton of a rule."""
    parser = Parser("new-rule", "Write the skeleton of a rule, whose own test fails until it finds its illness.")
    parser.add_argument("name", help="names the illness: dead-units")
    parser.add_argument("--family", default="curve", help="the part of training that it is about (default curve)")
    parser.add_argument("--code", help="such as FWD302; default: the next free one")
    parser.add_argument("--folder", type=Path, default=Path("."), help="where to write it")
    options = parser.parse_args(words)
    from wellfit.new_rule import write_rule

    _write(write_rule(options.name, options.family, options.code, options.folder.resolve()))
    return 0


def overrides(words: list[str]) -> int:
    """`wellfit overrides`: the table of what can be changed of a run."""
    parser = Parser("overrides", "List what can be changed of a run without touching its script.")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = _parsed_table(parser, words, "override")
    from wellfit.overrides.catalogue import known_overrides
    from wellfit.overrides.page import override_json, overrides_text

    known = known_overrides()
    _write(_json([override_json(each) for each in known]) if options.format == "json" else overrides_text(known))
    return 0


def override(words: list[str]) -> int:
    """`wellfit override NAME`: its page."""
    parser = Parser("override", "Show the page of an override: what it changes, its parameters, where it fits.")
    parser.add_argument("name")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    options = parser.parse_args(words)
    from wellfit.overrides.catalogue import find_override
    from wellfit.overrides.page import override_json, override_text

    found = find_override(options.name)
    _write(_json(override_json(found)) if options.format == "json" else override_text(found))
    return 0


def runs(words: list[str]) -> int:
    """`wellfit runs`: what was recorded below this folder."""
    parser = Parser("runs", "List the runs recorded from a folder.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("."))
    options = parser.parse_args(words)
    from wellfit.runs import runs_text

    _write(runs_text(options.folder))
    return 0


def diagnose(words: list[str]) -> int:
    """`wellfit diagnose RUN`: judge a recorded run, or the report of a slimming, again."""
    parser = Parser(
        "diagnose", "Judge a recorded run, or the report of a slimming, again, with today's rules and settings."
    )
    parser.add_argument(
        "run", help="folder of the run, or its name in .wellfit; `last` for the latest; or a report.json of slim"
    )
    _add_judging(parser)
    options = parser.parse_args(words)
    from wellfit.launch.outputs import deliver, formatted

    if options.run.endswith(".json"):
        text, failed = _judged_report(options)
    else:
        found, run, failed = _judged(options)
        text = formatted(options.format, found, run, options.show_notes)
    trouble = deliver(text, options.output)
    if trouble:
        raise WellfitError(trouble)
    return int(failed)


def report(words: list[str]) -> int:
    """`wellfit report RUN`: write its page again."""
    parser = Parser("report", "Judge a recorded run again and write its HTML page.")
    parser.add_argument("run", help="folder of the run, or its name in .wellfit; `last` for the latest")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: report.html in the run's folder")
    parser.set_defaults(select=None, ignore=None, fail_on=None)
    options = parser.parse_args(words)
    found, run, _ = _judged(options)
    from wellfit.launch.outputs import deliver
    from wellfit.report import to_html

    output = options.output or run.folder / "report.html"
    trouble = deliver(to_html(found, run), output)
    if trouble:
        raise WellfitError(trouble)
    _write(f"{output}\n")
    return 0


_VERBS: dict[str, Callable[[list[str]], int]] = {
    "check": check,
    "diagnose": diagnose,
    "new-rule": new_rule,
    "override": override,
    "overrides": overrides,
    "report": report,
    "rule": rule,
    "rules": rules,
    "run": run,
    "runs": runs,
    "slim": slim,
}


def _unknown_verb(word: str) -> str:
    from wellfit.nearest import did_you_mean

    if word.endswith(".py") or word == "-m":
        return f"to run {word} under watch: wellfit run {word}"
    return f'there is no command "{word}"{did_you_mean(word, _VERBS)}; `wellfit` lists them all'


def _parsed_table(parser: argparse.ArgumentParser, words: list[str], single: str) -> argparse.Namespace:
    """The options of a verb that lists all; a name after it means the verb that shows one."""
    parser.add_argument("name", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.name is not None:
        raise WellfitError(f"{single}s lists them all: did you mean `wellfit {single} {options.name}`?")
    return options


def _add_judging(parser: argparse.ArgumentParser) -> None:
    """The options that say which rules judge and how that is told."""
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="of the findings; without --output they go to standard output, behind what the script writes there",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the findings to this file")
    parser.add_argument("--fail-on", choices=("never", "error", "note"), help="exit with 1 if there is such a finding")
    parser.add_argument("--select", metavar="RULES", help="names, codes or prefixes, e.g. dead-units,DAT,FWD3")
    parser.add_argument("--ignore", metavar="RULES", help="the same, to leave out with all that they explain")
    parser.add_argument("--show-notes", action="store_true", help="tell notes as well as errors")


_DESCRIPTIONS = {
    "run": "Run a command under watch. Options of wellfit stand before the script.",
    "check": "Run a command for some steps as it is, and once under each change that a rule asks for, and compare. "
    "What the script prints, and what it saves with torch.save, goes into the run's folder; other files are written as "
    "ever. Options of wellfit stand before the script.",
}


def _run_parser(verb: str) -> Parser:
    usage = f"wellfit {verb} [options] SCRIPT.py|-m MODULE|COMMAND [its own arguments]"
    parser = Parser(verb, _DESCRIPTIONS[verb], usage=usage)
    _add_judging(parser)
    parser.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change the run: `wellfit overrides` lists how",
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing on standard error")
    parser.add_argument(
        "--every", type=_positive, metavar="N", default=0, help="watch each N-th step, whatever it costs"
    )
    parser.add_argument("--overhead", type=float, metavar="PERCENT", help="budget of the watching (default 1)")
    parser.add_argument("--quota", type=int, metavar="MB", help="most that a run may write (default 512)")
    parser.add_argument("--no-report", action="store_true", help="write no HTML page")
    parser.add_argument("--all", action="store_true", help="tell all findings at the end, not only the first five")
    return parser


def _run_options(words: list[str], parser: Parser) -> tuple[Options, argparse.Namespace]:
    """What a verb that runs a script was asked for, and its options as they were given."""
    from wellfit.config import asked_of, check_overhead, check_quota, load_config
    from wellfit.launch import Options

    own, command = split(words, parser)
    given = parser.parse_args(own)
    if not command:
        taken = words[-1] if words[-2:-1] == ["--override"] else ""
        hint = f'; --override took "{taken}"' if taken.endswith(".py") or Path(taken or "=").exists() else ""
        raise WellfitError(f"{parser.verb} needs a script or command, such as: {parser.prog} train.py{hint}")
    _check_value(own, command[0])
    if not given.override and not given.quiet and any(word.partition("=")[0] == "--override" for word in command[1:]):
        sys.stderr.write(
            "wellfit: --override is left to the script, behind which it stands; options of wellfit stand before it\n"
        )
    config = load_config(Path.cwd())
    asked = asked_of(config, given.select, given.ignore)
    overhead = config.overhead if given.overhead is None else given.overhead
    quota = config.quota if given.quota is None else given.quota
    check_overhead(overhead, "--overhead")
    check_quota(quota, "--quota")
    options = Options(
        words=command,
        format=given.format,
        output=given.output,
        fail_on=given.fail_on or config.fail_on,
        select=asked.select,
        ignore=asked.ignore,
        thresholds=asked.thresholds,
        quiet=given.quiet,
        overhead=overhead,
        quota=quota,
        every=given.every,
        report=not given.no_report,
        notes_shown=given.show_notes,
        all_shown=given.all,
        overrides=tuple(given.override),
    )
    return options, given


def _check_value(own: list[str], command: str) -> None:
    """Raise a WellfitError for `--override lr 0.01 train.py`: its value would be taken for the command."""
    valueless = own[-2:-1] == ["--override"] and "=" not in own[-1]
    if (
        valueless
        and not command.startswith("-")
        and not Path(command).suffix.startswith(".py")
        and not (Path(command).exists() or shutil.which(command))
    ):
        raise WellfitError(
            f"there is no script or command {command}: a value is written --override {own[-1]}={command}"
        )


def _judged(options: argparse.Namespace) -> tuple[list[Any], Run, bool]:
    """Findings of a recorded run, the run, and whether one is as grave as --fail-on asks for."""
    from wellfit import catalogue
    from wellfit.config import asked_of, load_config
    from wellfit.diagnose import diagnose as judge
    from wellfit.ignore_comments import misspelt_comments
    from wellfit.record import open_run
    from wellfit.record.store import find_run
    from wellfit.trials import fit_to_overrides

    config = load_config(Path.cwd())
    asked = asked_of(config, options.select, options.ignore)
    problems: list[str] = []
    chosen, ignored = catalogue.rules(asked.select, asked.thresholds, problems), catalogue.names_of(asked.ignore)
    run = open_run(find_run(options.run, Path.cwd()))
    run.settle()
    diagnosis = judge(run, chosen, ignored=ignored)
    fit_to_overrides(diagnosis.findings, run)
    for problem in [*problems, *diagnosis.problems, *run.damage, *misspelt_comments(run)]:
        sys.stderr.write(f"wellfit: {problem}\n")
    return diagnosis.findings, run, _is_failed(diagnosis.findings, options.fail_on or config.fail_on)


def _judged_report(options: argparse.Namespace) -> tuple[str, bool]:
    """What is said of the report of a slimming, and whether that is as grave as --fail-on asks for."""
    from wellfit.config import asked_of, load_config
    from wellfit.proof import Proof
    from wellfit.slim.findings import judged, report_text

    config, path = load_config(Path.cwd()), Path(options.run)
    diagnosis = judged(Proof.read(path), asked_of(config, options.select, options.ignore))
    for problem in diagnosis.problems:
        sys.stderr.write(f"wellfit: {problem}\n")
    text = report_text(path, diagnosis.findings, options.format, notes_shown=options.show_notes)
    return text, _is_failed(diagnosis.findings, options.fail_on or config.fail_on)


def _is_failed(findings: Sequence[Finding], fail_on: str) -> bool:
    grave = {"never": (), "error": ("error",), "note": ("error", "note")}[fail_on]
    return any(finding.severity in grave for finding in findings)


def _positive(text: str) -> int:
    """A whole number above 0."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return number


def _seconds(text: str) -> float:
    """A number of seconds above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return number


def _json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


def _write(text: str) -> None:
    """Text on standard output, whatever its encoding can hold."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _silence_stdout() -> None:
    """After the reader has gone: let Python's own last flush find nothing to complain about."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
