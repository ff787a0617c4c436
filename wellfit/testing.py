"""Helpers for the tests of rules, yours as well as ours: run an experiment for real, and hold a rule to its anatomy.

Example:
    def test_my_rule(tmp_path):
        check_rule(MyRule, tmp_path)
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wellfit.catalogue import FAMILIES, known_rules, rules, thresholds_of
from wellfit.diagnose import Diagnosis, diagnose, diagnose_proof
from wellfit.errors import WellfitError
from wellfit.finding import Finding
from wellfit.overrides.catalogue import parse
from wellfit.proof import Proof
from wellfit.record import Record, Run, open_run
from wellfit.rule import Rule
from wellfit.rule_page import HEADINGS, sections, threshold_comments

SCRIPT = "experiment.py"
LIMIT = 120.0  # seconds that an experiment may take; it should take two

_TICKED = re.compile(r"`([^`\n]+)`")
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")


def script_of(function: Callable[[], None]) -> str:
    """The body of an experiment as a program of its own.

    Args:
        function: without arguments; a static method will do.

    Raises:
        WellfitError: its source is not there, or it is no function with a body of lines of its own.
    """
    try:
        lines, _ = inspect.getsourcelines(function)
        source = textwrap.dedent("".join(lines))
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError) as error:
        raise WellfitError(
            f"{function!r}: its source cannot be read ({error}); write it as a function in a file"
        ) from None
    made = tree.body[0] if tree.body else None
    if not isinstance(made, ast.FunctionDef) or made.body[0].lineno <= made.lineno:
        raise WellfitError(f"{function!r} is no function whose body begins on a line of its own; give it one")
    first = made.body[0].lineno
    before = source.splitlines(keepends=True)[made.lineno : first - 1]  # comments and blank lines above the body
    body = source.splitlines(keepends=True)[first - 1 : made.end_lineno]
    kept = before[[not line.strip().startswith("#") for line in before].index(False) :] if _comment(before) else []
    return textwrap.dedent("".join([*kept, *body]))


def _comment(lines: Sequence[str]) -> bool:
    return any(line.strip().startswith("#") for line in lines)


def experiment(rule: type[Rule], kind: str) -> Callable[[], None]:
    """The experiment of a rule.

    Args:
        kind: "sick" or "healthy".

    Raises:
        WellfitError: the rule has none.
    """
    found = getattr(rule, kind, None)
    if not callable(found):
        raise WellfitError(f"the rule {rule.name} has no experiment {kind!r}; write it as a static method")
    return found  # type: ignore[no-any-return]


def run_experiment(function: Callable[[], None], folder: Path, rule: type[Rule] | None = None) -> Run:
    """Run the body of an experiment as a script under `wellfit run`.

    Args:
        function: as for `script_of`.
        folder: an empty folder; the script and the record are written into it.
        rule: that it belongs to; of one that asks for trials, they are made too, under `wellfit check`.

    Returns:
        the run, read to its end; the script is `run.folder.parent.parent / "experiment.py"`.

    Raises:
        WellfitError: the script failed, took too long, or left no record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / SCRIPT
    script.write_text(script_of(function), encoding="utf-8")
    beside = rule is not None and rule.trials
    verb = ["check", "--select", rule.name] if rule is not None and beside else ["run"]
    command = [sys.executable, "-m", "wellfit", *verb, "--no-report", "--quiet", "--overhead", "100", str(script)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _path_with_wellfit()}
    try:
        done = subprocess.run(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        raise WellfitError(f"{function.__qualname__} took more than {LIMIT:.0f} s; make it smaller") from None
    if done.returncode:
        raise WellfitError(f"{function.__qualname__} ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    found = sorted((folder / ".wellfit").glob("*/run.json"))
    if len(found) != 1:
        raise WellfitError(
            f"{function.__qualname__} left {len(found)} records in {folder}, not one: give an empty folder"
        )
    return open_run(found[0].parent)


def _path_with_wellfit() -> str:
    """PYTHONPATH with which the wellfit of this process is found."""
    home = str(Path(__file__).resolve().parent.parent)
    others = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and entry != home]
    return os.pathsep.join([home, *others])


def check_rule(rule: type[Rule], folder: Path) -> None:
    """The whole suite for one rule: its anatomy, and both experiments judged by all rules.

    Args:
        folder: an empty folder.

    Raises:
        AssertionError: what the rule breaks.
    """
    check_anatomy(rule)
    check_sick(rule, run_experiment(experiment(rule, "sick"), folder / "sick", rule))
    check_healthy(rule.name, run_experiment(experiment(rule, "healthy"), folder / "healthy", rule), extra=(rule,))


def check_anatomy(rule: type[Rule]) -> None:
    """Names, docstring, thresholds, fixes and experiments of a rule are as they should be.

    Raises:
        AssertionError: what the rule breaks.
        WellfitError: a fix or a trial names an override that there is not.
    """
    name = getattr(rule, "name", rule.__qualname__)
    assert re.fullmatch(r"[A-Z]{3}[1-9][0-9]{2}|[A-Z]{3}00[0-9]", rule.code), (
        f"{name}: the code {rule.code!r} is not like FWD302"
    )
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.name), f"{name}: the name is not kebab-case"
    assert rule.family in FAMILIES, f"{name}: the family {rule.family!r} is none of {FAMILIES}"
    assert 0 < len(rule.summary) <= 70, f"{name}: the summary has {len(rule.summary)} characters, not 1 to 70"
    known, _ = known_rules()
    others = [other for other in known if other is not rule and rule.name != other.name] + [rule]
    assert sum(other.code == rule.code for other in others) == 1, f"{name}: the code {rule.code} is taken"
    assert rule.name not in rule.consequences, f"{name} cannot be its own consequence"
    _check_page(rule)
    for fix in rule.fixes:
        if fix.override is not None:
            parse([fix.override])  # raises where there is no such override or value
    for trial in rule.trials:
        parse([trial])
    for kind in ("sick", "healthy"):
        made = inspect.getattr_static(rule, kind, None)
        assert isinstance(made, staticmethod), f"{name}: {kind} is no static method"
        assert not inspect.signature(made.__func__).parameters, f"{name}: {kind} takes arguments"
        compile(script_of(made.__func__), f"<{kind} of {name}>", "exec")


def _check_page(rule: type[Rule]) -> None:
    """The docstring has all headings with text, and the names of thresholds in it exist."""
    page = sections(rule)
    for heading in HEADINGS:
        assert page.get(heading), f'{rule.name}: the docstring has nothing under "{heading}"'
    thresholds = thresholds_of(rule)
    comments: dict[str, str] = {}
    for layer in reversed(rule.__mro__):  # a base shared by several rules has thresholds of its own
        if layer is not Rule and issubclass(layer, Rule):
            comments |= threshold_comments(layer)
    for name in thresholds:
        assert comments.get(name), f"{rule.name}: the threshold {name} has no comment with its unit and origin"
    for ticked in _TICKED.findall(rule.__doc__ or ""):
        if _NAME.fullmatch(ticked) and not _is_torch_name(ticked):
            assert ticked in thresholds, f"{rule.name}: the docstring names `{ticked}`, which is no threshold"


def _is_torch_name(name: str) -> bool:
    """Whether a word with underscores is a function or argument of PyTorch rather than a threshold."""
    return name.endswith("_") or name in _TORCH_NAMES


_TORCH_NAMES = {
    "batch_first", "batch_size", "cross_entropy", "drop_last", "dropout_p", "ignore_index", "label_smoothing",
    "log_softmax", "max_norm", "no_grad", "nll_loss", "mse_loss", "num_workers", "optimizer_step", "pos_weight",
    "requires_grad", "running_mean", "running_var", "state_dict", "weight_decay", "zero_grad", "set_to_none",
    "clip_grad_norm", "max_iter", "in_features", "out_features", "num_classes", "track_running_stats", "negative_slope",
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "add_param_group", "register_parameter",
    "scaled_dot_product_attention", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "hidden_size", "input_size",
    "key_padding_mask", "attn_mask", "need_weights", "find_unused_parameters", "torch_dtype", "step_size", "t_max",
    "relu_", "leaky_relu", "layer_norm", "batch_norm", "bfloat16", "from_numpy", "as_tensor", "load_state_dict",
}  # fmt: skip


def judge(run: Run, extra: Sequence[type[Rule]] = ()) -> Diagnosis:
    """A finished run, and the proofs that its script has saved beside itself, judged by the whole catalogue.

    Args:
        extra: rules to ask as well, where they are not in the catalogue.
    """
    chosen = rules()
    chosen += [rule() for rule in extra if rule.name not in {one.name for one in chosen}]
    run.settle()
    diagnosis = diagnose(run, chosen)
    for report in sorted(_folder_of_script(run).glob("*.report.json")):
        proved = diagnose_proof(Proof.read(report), chosen)
        diagnosis.findings += proved.findings
        diagnosis.problems += proved.problems
    return diagnosis


def check_sick(rule: type[Rule], run: Run) -> Finding:
    """The rule's sick experiment gives its worst finding, with a place in the script, and a message with a cure.

    What is found of a slimming is in no line of a script.

    Returns:
        the finding of this rule.

    Raises:
        AssertionError: what is missing.
    """
    diagnosis = judge(run, extra=(rule,))
    assert not diagnosis.problems, f"{rule.name}: {diagnosis.problems}"
    told = [*diagnosis.findings, *(finding for _, finding in diagnosis.folded)]
    own = [finding for finding in told if finding.rule == rule.name and finding.severity == rule.worst]
    given = _named(diagnosis.findings)
    assert own, f"the sick experiment of {rule.name} should give its {rule.worst}, but gives {given}"
    finding = own[0]
    check_message(finding)
    if rule.judges_proofs():
        return finding
    script = (_folder_of_script(run) / SCRIPT).read_text(encoding="utf-8").splitlines()
    where = finding.location
    assert where is not None, f"{rule.name}: the finding names no line"
    assert Path(where.file).name == SCRIPT, f"{rule.name}: the finding is in {where.file}, not in the script"
    assert 1 <= where.line <= len(script), f"{rule.name}: the script has no line {where.line}"
    assert script[where.line - 1].strip(), f"{rule.name}: line {where.line} of the script is empty"
    return finding


def check_message(finding: Finding) -> None:
    """A message is one text: the problem, then after "; " the cure."""
    text = finding.message
    assert text == " ".join(text.split()), f"{finding.rule}: the message has line breaks or double spaces: {text!r}"
    assert "; " in text, f'{finding.rule}: the message gives no cure after "; ": {text!r}'
    assert not text.endswith("."), f"{finding.rule}: the message ends with a full stop: {text!r}"
    for key, value in finding.evidence.items():
        assert isinstance(value, (int, float, str, list)), (
            f"{finding.rule}: the evidence {key} is {type(value).__name__}"
        )


def check_healthy(name: str, run: Run, extra: Sequence[type[Rule]] = ()) -> None:
    """No rule finds an error in a healthy experiment.

    Args:
        name: of the rule that it belongs to.

    Raises:
        AssertionError: the findings.
    """
    diagnosis = judge(run, extra)
    assert not diagnosis.problems, f"{name}: {diagnosis.problems}"
    errors = [finding for finding in diagnosis.findings if finding.severity == "error"]
    assert not errors, f"the healthy experiment of {name} is called ill: {_named(errors)}: {errors[0].message}"


def _named(findings: Sequence[Any]) -> str:
    return ", ".join(f"{finding.rule} ({finding.severity})" for finding in findings) or "no findings"


def _folder_of_script(run: Run) -> Path:
    return run.folder.parent.parent


class MadeRun:
    """A record written by hand, for tests of a rule's arithmetic that need no training.

    Args:
        folder: an empty folder.

    Example:
        made = MadeRun(tmp_path)
        made.weight("fc.weight")
        for _ in range(50):
            made.step(loss=2.3, updates={"fc.weight": 1e-7})
        findings = list(MyRule().check(made.record()))
    """

    def __init__(self, folder: Path) -> None:
        from wellfit.probe.writer import Writer

        self.folder = folder
        self.steps = 0
        self.out = Writer(str(folder), 0, 1, 1 << 40)
        place = {"file": SCRIPT, "line": 3}
        self.declare("process", rank=0, world_size=1)
        self.declare(
            "optimizer", id=0, **{"class": "SGD"}, location=place, groups=[{"lr": 0.1}], parameters=["fc.weight"]
        )
        self.declare("hyper", id=0, optimizer=0, group=0, name="lr")
        self.declare("backward", id=0, location={"file": SCRIPT, "line": 7})
        self.declare("pattern", id=0, events=["zero_grad:0", "backward", "step:0"])
        self.out.row(ord("H"), 0, 0, 0, 0.1, 0.0)

    def declare(self, kind: str, /, **fields: Any) -> None:
        """Write any declaration of docs/record.md."""
        self.out.declare({"type": kind, **fields})

    def event(self, name: str, /, **fields: Any) -> None:
        """Write an event at the current step."""
        self.declare("event", event=name, step=self.steps, **fields)

    def loss_function(self, function: str = "cross_entropy", id: int = 0, training: bool = True) -> None:
        """Declare a loss function of 10 classes at line 6."""
        self.declare(
            "loss", id=id, function=function, location={"file": SCRIPT, "line": 6}, prediction_shape=[32, 10],
            target_shape=[32], reduction="mean", training=training,
        )  # fmt: skip

    def weight(self, name: str, dtype: str = "float32") -> None:
        """Declare a weight of 64 x 64 and the Linear layer at line 2 that it belongs to."""
        layer = name.rpartition(".")[0]
        place = {"file": SCRIPT, "line": 2}
        self.declare(
            "layer", name=layer, **{"class": "Linear"}, kind="linear", location=place, order=0, parameters=[name]
        )
        self.declare(
            "parameter", name=name, layer=layer, shape=[64, 64], dtype=dtype, requires_grad=True, optimizer=0,
            location=place, initial={"std": 1.0, "rms": 1.0, "amax": 2.0}, fan_in=64,
        )  # fmt: skip

    def step(self, loss: float, updates: dict[str, float] | None = None, unchanged: float = 0.0) -> None:
        """One step.

        Args:
            loss: given to backward.
            updates: rms(update) / rms(weight) by name of the weight; the step is not sampled without.
            unchanged: share of the elements that kept their value though they have a gradient.
        """
        nan = float("nan")
        self.out.row(ord("B"), 0, 0, self.steps, loss, float(self.steps))
        self.out.row(ord("S"), 0, 0, self.steps, float(self.steps), 0.0)
        rows: list[tuple[float, ...]] = [
            (self.out.series("update", name), 4096.0, 0.0, ratio, ratio, 4096 * unchanged, 4096 * unchanged, 1.0, nan)
            for name, ratio in (updates or {}).items()
        ]
        if rows:
            self.out.statistics(self.steps, rows)
        self.steps += 1

    def evaluation(self, loss: float, id: int = 1) -> None:
        """The loss of one evaluation pass."""
        self.out.row(ord("E"), 0, id, self.steps, loss, float(self.steps))

    def record(self, finished: bool = True) -> Record:
        """What was written so far."""
        self.out.flush()
        record = open_run(self.folder).records[0]
        record.finished = finished
        return record
