"""`wellfit.watch()`: the same probe and the same rules in a notebook or inside a program."""

from __future__ import annotations

import atexit
import json
import os
import shlex
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.finding import Finding
from wellfit.record.writing import write_json, write_text

if TYPE_CHECKING:
    from wellfit.record import Run


class Session:
    """A watched stretch of this process, from `watch()` to `stop()`.

    Example:
        >>> import wellfit
        >>> session = wellfit.watch()          # doctest: +SKIP
        >>> ...                                # train as always
        >>> for finding in session.diagnose(): # doctest: +SKIP
        ...     print(finding.message)
    """

    def __init__(self, folder: Path, attachment: Any, fields: dict[str, Any] | None = None) -> None:
        """
        Args:
            folder: of the record.
            attachment: of the probe in this process.
            fields: of run.json; None where `wellfit run` or a parent process began to watch: stopping is theirs then.
        """
        self.folder = folder
        self._attachment = attachment
        self._fields = fields
        if fields is not None:
            atexit.register(self._end)

    @property
    def run(self) -> Run:
        """The run as recorded so far; without records if no backward call was seen yet."""
        from wellfit.record import open_run

        self._attachment.flush()
        return open_run(self.folder)

    def diagnose(self, select: tuple[str, ...] = (), ignore: tuple[str, ...] = ()) -> list[Finding]:
        """Judge what was recorded so far; empty if all is well.

        Args:
            select: names, codes or families of the rules to ask; all if empty.
            ignore: the same, of those whose findings, and what they explain, are left out.

        Raises:
            WellfitError: a rule is unknown.
        """
        from wellfit.catalogue import names_of, rules
        from wellfit.diagnose import diagnose
        from wellfit.trials import fit_to_overrides

        run = self.run
        findings = diagnose(run, rules(select), ignored=names_of(ignore)).findings
        fit_to_overrides(findings, run)
        return findings

    def report(self, path: str | Path | None = None) -> Path:
        """Write the HTML page; returns where it lies (beside the record, unless said)."""
        from wellfit.report import to_html

        target = Path(path) if path is not None else self.folder / "report.html"
        target.write_text(to_html(self.diagnose(), self.run), encoding="utf-8")
        return target

    def stop(self) -> None:
        """Stop watching and put back what was changed in torch; what was recorded stays.

        Under `wellfit run` it does nothing: the whole program is watched there.
        """
        if self._fields is not None:
            self._attachment.close()
            self._end()

    def _end(self) -> None:
        """Note in run.json that the watching is over; the program's exit code is not known from inside."""
        atexit.unregister(self._end)
        fields = self._fields or {}
        if fields.get("host_pid") == os.getpid() and fields["ended"] is None:  # a fork that ends is not the end
            fields |= {"status": "ended", "ended": time.time()}
            write_text(self.folder / "run.json", json.dumps(fields, indent=1) + "\n")

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


_latest: Session | None = None


def watch(folder: str | Path | None = None, *, overhead: float = 1.0, quota: int = 512) -> Session:
    """Watch the training in this process from here on; call it before the model is made, so that its lines are known.

    Where the process is watched already, by an earlier call or by `wellfit run`, that session is given back, and
    `folder`, `overhead` and `quota` stay as they were.

    Args:
        folder: for the record; a new one below `.wellfit` if not given.
        overhead: budget of the probe in percent of the run's time.
        quota: most that the record may take, in MB.

    Raises:
        WellfitError: a value is out of range, or the folder cannot be written.
    """
    global _latest
    from wellfit.config import check_overhead, check_quota

    check_overhead(overhead, "overhead")
    check_quota(quota, "quota")
    import torch

    from wellfit.probe.attach import attach, current

    there = current()
    if there is not None:
        _latest = _session_of(there)
        return _latest
    target = _made_folder(folder)
    fields = _fields_at_start(target)
    write_json(target / "run.json", fields)
    options = {"run": str(target), "overhead": overhead / 100, "quota": quota * 1_000_000}
    _latest = Session(target, attach(torch, options), fields)
    return _latest


def _session_of(attachment: Any) -> Session:
    """The session of a process that is watched already."""
    if _latest is not None and _latest._attachment is attachment:
        if _latest._fields is not None:  # under `wellfit run` the script's own call changes nothing, and needs no word
            from wellfit.probe.fence import say

            say(f"this process is watched already: watch() gives back its session ({_latest.folder})")
        return _latest
    return Session(Path(attachment.options["run"]), attachment)


def _made_folder(folder: str | Path | None) -> Path:
    """The folder for a record, made.

    Raises:
        WellfitError: it cannot be made.
    """
    if folder is None:
        from wellfit.record.store import new_run_folder

        main = getattr(sys.modules.get("__main__"), "__file__", None) or "notebook"
        return new_run_folder(Path.cwd(), Path(main).name)[0]
    target = Path(folder).absolute()
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WellfitError(f"the folder {target} for the record cannot be made: {error.strerror}") from None
    return target


def _fields_at_start(folder: Path) -> dict[str, Any]:
    """run.json while the process is watched."""
    return {
        "version": 1,
        "id": folder.name,
        "command": _command(),
        "started": time.time(),
        "ended": None,
        "status": "running",
        "host_pid": os.getpid(),
    }


def _command() -> str:
    """What started this process, as it would be typed."""
    if "ipykernel" in sys.modules:
        return "notebook"
    words = list(sys.orig_argv)
    return shlex.join([Path(words[0]).name, *words[1:]]) if words else ""
