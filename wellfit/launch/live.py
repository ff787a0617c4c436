"""Judging a run while it grows and when it has ended, and telling each finding once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from wellfit.errors import WellfitError
from wellfit.finding import Finding
from wellfit.launch.voice import Voice
from wellfit.record.writing import write_text

if TYPE_CHECKING:
    from wellfit.launch.watched import Options
    from wellfit.record import Record, Run
    from wellfit.rule import Rule

SHARE = 0.03
"""Of the time that passes, judging may take so much."""

STOPPED = "an override does not fit this script"
EVALUATED = "an override leaves training out"

THIN_AT, THIN_TO = 0.8, 0.6
"""Shares of the quota: a larger record is thinned until it is smaller than the second."""


class Live:
    """The parent's eyes: reads the record as it grows.

    Args:
        folder: the run's folder.
        options: of `wellfit run`.
        voice: where findings are told.
    """

    def __init__(self, folder: Path, options: Options, voice: Voice) -> None:
        self._folder = folder
        self._options = options
        self._voice = voice
        self._run: Run | None = None
        self._rules: list[Rule] = []
        self._ignored: frozenset[str] = frozenset()
        self._off: set[str] = set()
        self._told: dict[tuple[str, str | None], str] = {}  # how grave it was when it was told
        self._explained: dict[str, set[str]] = {}
        self._next = 0.0
        self._complained: set[str] = set()

    def look(self) -> None:
        """Read what is new, judge if that is due, tell what is sure. Never raises."""
        try:
            self._open()
            now = time.monotonic()
            if now < self._next or self._run is None or not self._run.refresh() or not self._run.records:
                return
            for finding in self._judge():
                self._tell(finding)
            self._keep_quota(self._run)
            self._next = now + (time.monotonic() - now) / SHARE
        except Exception as error:
            self._complain(f"the run could not be judged while it ran ({type(error).__name__}: {error})")
            self._next = float("inf")

    def end(self) -> bool:
        """Judge for the last time, write what was asked for, say the last words. Never raises an Exception.

        Returns:
            whether a finding is as grave as `--fail-on` asks for.
        """
        if self._idle():  # nothing to judge, so nothing heavy is loaded
            self._last_words([], self._nothing_seen(None))
            return False
        try:
            self._open()
        except Exception as error:
            self._complain(f"the run cannot be judged ({type(error).__name__}: {error})")
            return False
        findings: list[Finding] = []
        nothing = f"the record is gone: {self._folder} was removed"
        if self._run is not None and self._folder.is_dir():
            self._run.refresh()
            nothing = self._nothing_seen(self._run)
            try:
                findings = self._judge()
                self._complain_of_comments(self._run)
            except Exception as error:
                self._complain(f"the run could not be judged ({type(error).__name__}: {error})")
            for write in (self._write_files, self._write_output):
                try:
                    write(self._run, findings)
                except Exception as error:
                    self._complain(f"the findings could not be written ({type(error).__name__}: {error})")
        self._last_words(findings, nothing)
        grave = ("error",) if self._options.fail_on == "error" else ("error", "note")
        return self._options.fail_on != "never" and any(finding.severity in grave for finding in findings)

    def _idle(self) -> bool:
        """Whether no process recorded anything and nobody waits for a file of ours."""
        asked = self._options.format != "text" or self._options.output is not None
        return self._run is None and not asked and self._folder.is_dir() and not any(self._folder.glob("*.wfr"))

    def _open(self) -> None:
        """Load rules and run; the imports are heavy, so this waits until the child has been started."""
        if self._run is not None:
            return
        from wellfit.catalogue import names_of, rules
        from wellfit.diagnose import explained
        from wellfit.record import open_run

        problems: list[str] = []
        options = self._options
        self._rules = rules(options.select, options.thresholds, problems)
        self._ignored = names_of(options.ignore)
        self._explained = explained(self._rules)
        for problem in problems:
            self._complain(problem)
        try:
            self._run = open_run(self._folder)
        except WellfitError:  # the folder is gone already, or run.json could not be written
            self._run = None

    def _keep_quota(self, run: Run) -> None:
        """Thin what was recorded long ago before the folder outgrows its quota."""
        quota = self._options.quota * 1_000_000
        size = sum(file.stat().st_size for file in self._folder.glob("*.wfr"))
        if size > THIN_AT * quota:
            from wellfit.record.thin import thin

            for record in run.records:
                thin(self._folder, record.prefix, int(THIN_TO * quota / len(run.records)))

    def _judge(self) -> list[Finding]:
        from wellfit.diagnose import diagnose
        from wellfit.trials import fit_to_overrides

        assert self._run is not None
        diagnosis = diagnose(self._run, self._rules, self._off, self._ignored)
        fit_to_overrides(diagnosis.findings, self._run)
        for problem in diagnosis.problems:
            self._complain(problem)
        return diagnosis.findings

    def _tell(self, finding: Finding) -> None:
        """Print a sure finding, once, unless something that was told before explains it."""
        if self._options.quiet or self._known(finding) or not finding.sure or not self._wanted(finding):
            return
        if any(finding.rule in self._explained.get(rule, ()) for rule, _ in self._told):
            return
        self._print(finding)

    def _print(self, finding: Finding) -> None:
        from wellfit.report import finding_text

        self._told[finding.rule, finding.layer] = finding.severity
        self._voice.tell("\n" + finding_text(finding, self._voice.color, self._voice.width))

    def _known(self, finding: Finding) -> bool:
        """Whether this was told before, as gravely: a note that has become an error is told again."""
        told = self._told.get((finding.rule, finding.layer))
        return told is not None and (told == "error" or finding.severity != "error")

    def _wanted(self, finding: Finding) -> bool:
        return finding.severity == "error" or self._options.notes_shown

    def _last_words(self, findings: list[Finding], nothing: str) -> None:
        """The findings that were not told yet, and the summary; or why there is nothing to say."""
        if self._options.quiet:
            return
        if nothing:
            if nothing not in (STOPPED, EVALUATED):  # that was said in the program's process
                self._voice.say(nothing)
            return
        from wellfit.report import summary_text

        assert self._run is not None
        limit = len(findings) if self._options.all_shown else 5
        try:
            for finding in [finding for finding in findings if self._wanted(finding)][:limit]:
                if not self._known(finding):
                    self._print(finding)
            summary = summary_text(findings, self._run, self._voice.color, self._options.notes_shown)
            self._voice.tell("\n" + summary)
        except Exception as error:
            self._complain(f"the findings could not be shown ({type(error).__name__}: {error})")

    def _nothing_seen(self, run: Run | None) -> str:
        """Why there is nothing to judge, in one sentence; empty if there was training."""
        note = self._folder / "torch.txt"  # of the bootstrap
        try:
            lines = note.read_text(encoding="utf-8", errors="replace").splitlines()
            note.unlink()
        except OSError:
            lines = []
        if any(line.startswith("stopped ") for line in lines):
            return STOPPED
        if run is not None and _trained(run):
            return ""
        if run is not None and any(_evaluates(record) for record in run.records):
            return EVALUATED
        failed = next((line for line in lines if line.startswith("failed ")), None)
        if failed is not None:
            return f"saw no training: it could not attach ({failed.removeprefix('failed ')})"
        imported = bool(lines) or (run is not None and bool(run.records))
        why = "torch was imported, but nothing called backward()" if imported else "torch was never imported"
        unused = "; the overrides found nothing to change" if self._options.overrides else ""
        return f"saw no training: {why}{unused}"

    def _complain_of_comments(self, run: Run) -> None:
        """Name the ignore comments in the user's source that silence nothing."""
        from wellfit.ignore_comments import misspelt_comments

        for sentence in misspelt_comments(run):
            self._complain(sentence)

    def _write_files(self, run: Run, findings: list[Finding]) -> None:
        """findings.json and the page in the run's folder."""
        from wellfit.launch.outputs import formatted

        trouble = write_text(self._folder / "findings.json", formatted("json", findings, run))
        if self._options.report and _trained(run) and trouble is None:
            from wellfit.report import to_html

            trouble = write_text(self._folder / "report.html", to_html(findings, run))
        if trouble is not None:
            self._complain(f"the findings could not be written to {self._folder}: {trouble.strerror}")

    def _write_output(self, run: Run, findings: list[Finding]) -> None:
        """The format that was asked for, to its file or to standard output."""
        from wellfit.launch.outputs import deliver, formatted

        options = self._options
        if options.format == "text" and options.output is None:
            return
        trouble = deliver(formatted(options.format, findings, run, options.notes_shown), options.output)
        if trouble:
            self._complain(trouble)

    def _complain(self, sentence: str) -> None:
        """Say once what went wrong on our side."""
        if sentence not in self._complained and not self._options.quiet:
            self._voice.say(sentence)
        self._complained.add(sentence)


def _evaluates(record: Record) -> bool:
    return any(override.name == "evaluate" for override in record.overrides.values())


def _trained(run: Run) -> bool:
    return any(record.step_count or record.loss_sites() for record in run.records)
