"""`wellfit.watch()`: the same probe and the same rules in a notebook or inside a program."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.finding import Finding

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

    def __init__(self, folder: Path, attachment: Any) -> None:
        self.folder = folder
        self._attachment = attachment

    @property
    def run(self) -> Run:
        """The run as recorded so far; without records if no backward call was seen yet."""
        from wellfit.record import open_run

        self._attachment.flush()
        return open_run(self.folder)

    def diagnose(self, select: tuple[str, ...] = (), ignore: tuple[str, ...] = ()) -> list[Finding]:
        """Judge what was recorded so far; empty if all is well.

        Args:
            select, ignore: names, codes or families of rules.

        Raises:
            WellfitError: a rule is unknown.
        """
        from wellfit.catalogue import rules
        from wellfit.diagnose import diagnose

        return diagnose(self.run, rules(select, ignore)).findings

    def report(self, path: str | Path | None = None) -> Path:
        """Write the HTML page; returns where it lies (beside the record, unless said)."""
        from wellfit.report import to_html

        target = Path(path) if path is not None else self.folder / "report.html"
        target.write_text(to_html(self.diagnose(), self.run), encoding="utf-8")
        return target

    def stop(self) -> None:
        """Stop watching and put back what was changed in torch; what was recorded stays."""
        self._attachment.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def watch(folder: str | Path | None = None, *, overhead: float = 1.0, quota: int = 512) -> Session:
    """Watch the training in this process from here on; call it before the model is made, so that its lines are known.

    Args:
        folder: for the record; a new one below `.wellfit` if not given.
        overhead: budget of the probe in percent of the run's time.
        quota: most that the record may take, in MB.

    Raises:
        WellfitError: a value is out of range, or the folder cannot be written.
    """
    from wellfit.config import check_overhead, check_quota
    from wellfit.record.store import new_run_folder

    check_overhead(overhead, "overhead")
    check_quota(quota, "quota")
    if folder is None:
        main = getattr(sys.modules.get("__main__"), "__file__", None) or "notebook"
        target, _ = new_run_folder(Path.cwd(), Path(main).name)
    else:
        target = Path(folder).absolute()
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WellfitError(f"the folder {target} for the record cannot be made: {error.strerror}") from None
    import torch

    from wellfit.probe.attach import attach, current
    from wellfit.record.writing import write_json

    if current() is not None:
        raise WellfitError("this process is watched already: use the first session, or stop it before you watch again")
    write_json(target / "run.json", {"version": 1, "id": target.name, "status": "running", "started": time.time()})
    options = {"run": str(target), "overhead": overhead / 100, "quota": quota * 1_000_000}
    return Session(target, attach(torch, options))
