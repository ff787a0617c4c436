"""`wellfit new-rule`: the skeleton of a rule, whose own test fails until the rule finds its illness."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from string import Template

from wellfit.catalogue import FAMILIES, known_rules
from wellfit.errors import WellfitError
from wellfit.nearest import did_you_mean

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_FOREIGN = "OWN"  # codes of rules that are not in wellfit's own catalogue

_RULE = Template('''"""$code: $name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from wellfit.finding import Finding, Fix
from $judged
from wellfit.rule import Family, Rule


class $kind(Rule):
    """What is wrong, in one sentence.

    What it checks
    The statistic, and from what value of `threshold` on it is ill.

    Why it hurts
    What the illness costs.

    Cure
    What the user should change.

    Fix safety
    What the fix changes, and what it keeps.

    When it is wrong
    Healthy programs that look alike, and what tells them apart.

    References
    The paper or documentation that it is drawn from.
    """

    code = "$code"
    name = "$name"
    family: ClassVar[Family] = "$family"
    status = "preview"
    summary = "what is wrong, in 70 characters"
$fields

    threshold: float = 10.0  # its unit, and what healthy ones have

    @staticmethod
    def sick() -> None:
        # A user's program in miniature that has the illness.
$program
    @staticmethod
    def healthy() -> None:
        # The same without it: the nearest program that must stay silent.
$program
$check''')

_PROGRAM = """\
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(2):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
"""

_SLIMMED = (
    _PROGRAM.replace("import nn\n", "import nn\n\n        from wellfit import slim\n")
    + """
        def accuracy(model):
            return (model(x[1400:]).argmax(1) == y[1400:]).float().mean()

        plan = slim.Plan.from_json({"keep": 5, "steps": [{"layer": "0", "method": "share", "strength": 16}]})
        slimmed = slim.apply(model, plan)
        slim.save(slimmed.model, "digits.wfz", slimmed.changes)
        report = slim.report(model, "digits.wfz", x[1400:], evaluate=accuracy, slimmed=slimmed, seconds=0.2)
        report.save("digits.report.json")
"""
)

_OF_RUN = {
    "judged": "wellfit.record import Record",
    "program": _PROGRAM,
    "fields": """\
    reads = ("loss",)  # the series of docs/record.md that it needs
    consequences = ()  # names of the rules whose findings this illness explains
    fixes = (Fix("What to do, in the imperative"),)""",
    "check": """\
    def check(self, record: Record) -> Iterator[Finding]:
        loss = record.loss()
        if not len(loss) or not float(loss.value.max()) > self.threshold:
            return
        optimizer = next(iter(record.optimizers.values()), None)
        yield self.finding(
            f"the problem, with its numbers ({float(loss.value.max()):.3g}), and why it hurts; then the cure",
            severity="error",
            step=int(loss.step[int(loss.value.argmax())]),
            location=optimizer.location if optimizer is not None else None,
            evidence={"threshold": self.threshold},
            sure=record.finished,
        )
""",
}

_OF_PROOF = {
    "judged": "wellfit.proof import Proof",
    "program": _SLIMMED,
    "fields": """\
    fixes = (Fix("What to do, in the imperative", changes="what is another one then"),)""",
    "check": """\
    def check_proof(self, proof: Proof) -> Iterator[Finding]:
        lost = proof.metric.lost
        if not lost > self.threshold:
            return
        yield self.finding(
            f"the problem, with its numbers ({lost:.2f} points), and why it hurts; then the cure",
            severity="error",
            evidence={"lost": lost, "threshold": self.threshold},
        )
""",
}
"""Of a rule of the family slim, which reads what `wellfit slim` has measured; see docs/slim/proof.md."""

_TEST = Template("""from pathlib import Path

from $module import $kind

from wellfit.testing import check_rule


def test_$module(tmp_path: Path) -> None:
    check_rule($kind, tmp_path)
""")


def write_rule(name: str, family: str, code: str | None, folder: Path) -> str:
    """Write the skeleton of a rule and, outside of wellfit's own source, a test for it.

    Args:
        name: kebab-case, names the illness ("dead-units").
        family: one of `catalogue.FAMILIES`.
        code: like "FWD302"; None for the next free one.
        folder: where to write; a folder of wellfit's source tree puts the rule into `wellfit/rules`.

    Returns:
        what was written and what to do next, for the terminal.

    Raises:
        WellfitError: the name, the family or the code will not do, or a file is there already.
    """
    if not _NAME.fullmatch(name):
        raise WellfitError(
            f'a rule is named after its illness, in small letters and hyphens ("dead-units"), not "{name}"'
        )
    if family not in FAMILIES:
        raise WellfitError(f'there is no family "{family}"{did_you_mean(family, FAMILIES)}; {", ".join(FAMILIES)}')
    classes, _ = known_rules()
    if name in {rule.name for rule in classes}:
        raise WellfitError(f'there is a rule "{name}" already: `wellfit rule {name}` shows it')
    own = _source_tree(folder)
    code = code or _free_code(family if own is not None else None)
    if not re.fullmatch(r"[A-Z]{3}[0-9]{3}", code):
        raise WellfitError(f'a code is three capitals and three digits ("FWD302"), not "{code}"')
    if code in {rule.code for rule in classes}:
        raise WellfitError(f"the code {code} is taken")
    module = name.replace("-", "_")
    kind = "".join(part.capitalize() for part in name.split("-"))
    parts = _OF_PROOF if family == "slim" else _OF_RUN
    values = {"code": code, "name": name, "family": family, "module": module, "kind": kind, **parts}
    file = (own / family if own is not None else folder) / f"{module}.py"
    files = {file: _RULE.substitute(values)}
    if own is None:
        files[folder / f"test_{module}.py"] = _TEST.substitute(values)
    for path in files:
        if path.exists():
            raise WellfitError(f"{path} is there already")
    for path, text in files.items():
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise WellfitError(f"{path} cannot be written: {error.strerror}") from None
    said = "".join(f"{path}\n" for path in files)
    if own is not None:
        return (
            said + f'\nIts test fails until it finds its illness:\n  python -m pytest tests/test_rules.py -k "{name}"\n'
        )
    return said + (
        "\nIts test fails until it finds its illness:\n"
        f"  {Path(sys.executable).name} -m pytest test_{module}.py\n"
        "\nwellfit finds it once your package is installed with this in its pyproject.toml:\n"
        f'  [project.entry-points."wellfit.rules"]\n  {name} = "{module}:{kind}"\n'
    )


def _source_tree(folder: Path) -> Path | None:
    """`wellfit/rules` of the source tree of wellfit that a folder lies in; None if it is in none."""
    for place in (folder, *folder.parents):
        if (place / "wellfit" / "new_rule.py").is_file() and (place / "pyproject.toml").is_file():
            return place / "wellfit" / "rules"
    return None


def _free_code(family: str | None) -> str:
    """The number after the last of a family; of rules of others' own, if None."""
    codes = [rule.code for rule in known_rules()[0] if family is None or rule.family == family]
    prefix = codes[-1][:3] if family is not None and codes else _FOREIGN
    numbers = [int(code[3:]) for code in codes if code.startswith(prefix)]
    return f"{prefix}{max(numbers, default=100) + 1:03d}"
