"""DAT110: what the model shall predict stands among its inputs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Loss, Record, Series
from wellfit.rule import Rule
from wellfit.source import Source, called, input_origin, main_source, source_of, target_origin

# Words of programs that give sequences back by design, or learn from a part of the tokens only.
_BY_DESIGN = re.compile(
    r"auto_?enc|reconstruct|\brecon\b|denois|copy_?task|identity|\bmlm\b|masked_lm|mask_(token|id|prob|idx)|\[MASK\]|"
    r"latent|bottleneck|\btag(s|ger|ging)?\b",
    re.IGNORECASE,
)
_DECODER = re.compile(r"(^|[._])dec(oder)?([._]|$)", re.IGNORECASE)
_SHIFTS = {"roll", "pad", "shift", "shift_right", "shift_tokens_right", "_shift_right", "shift_tokens"}
_RANDOM = {
    "rand", "randn", "randint", "normal", "uniform", "random", "random_sample", "standard_normal", "linspace", "arange",
    "rand_like", "randn_like", "bernoulli", "choice", "randperm",
}  # fmt: skip


class TargetLeak(Rule):
    """The target is among the inputs: the model has only to copy it.

    What it checks
        In each watched step, to the last bit, whether the target of a loss is a column of the model's first input (of a
        sequence: of its last step), for the same column in `batches` batches; and whether the target of a loss on
        tokens is what the model is given at `same` of the positions in each batch: at its only input of tokens, or at
        the last one of an encoder and decoder. A column is an error (a note where several losses are trained, or the
        program makes its data of random numbers); tokens are one once less than `copied` of the loss at the start, or
        of guessing, is left, and a note before; of tokens nothing is said unless the file that was started defines a
        forward of its own, so that what the model does with them can be read.

    Why it hurts
        Copying is learned in a few steps and scores perfectly, in validation too if it is made alike. Where the answer
        is not known in advance, which is where the model is needed, it knows nothing.

    Cure
        Leave the column of the target out of the features; end a window one step before what it shall predict; shift
        the target of a language model by one: input `ids[:, :-1]`, target `ids[:, 1:]`.

    Fix safety
        Unsafe: the model learns another task, the harder and true one; scores become worse.

    When it is wrong
        Autoencoders (target and input of one shape, or names that say so), models that shift or cut their input in a
        method of their own, masked language models and tagging are left out. A target of random numbers that is a
        column by intention, to show something, is a note.

    References
        Kaufman et al. 2012, "Leakage in data mining"; Kapoor and Narayanan 2023, "Leakage and the reproducibility
        crisis in machine-learning-based science".
    """

    code = "DAT110"
    name = "target-leak"
    family = "data"
    summary = "the target stands among the inputs of the model"
    reads = ("answer", "loss")
    consequences = ("val-too-good", "label-range", "overfit", "input-scale", "constant-input")
    fixes = (Fix("Take the target out of the inputs, or shift it by one"),)

    batches: int = 3  # watched batches
    bits: float = 16.0  # rows x log2(distinct targets): by chance a column is the target in one of 2^16 batches
    same: float = 0.98  # share of positions; masked language models without ignored positions: to 0.9
    copied: float = 0.2  # of the loss; language models on text stay above 0.25 for long
    steps: int = 50  # steps before which no loss is said to be low

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        pixels, labels = load_digits(return_X_y=True)
        odd = torch.tensor(labels % 2).float().unsqueeze(1)
        table = torch.cat([torch.tensor(pixels / 16.0).float(), odd], 1)
        features, target = table, table[:, -1]
        model = nn.Sequential(nn.Linear(65, 32), nn.ReLU(), nn.Linear(32, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(4):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                answer = model(features[batch]).squeeze(1)
                loss = nn.functional.binary_cross_entropy_with_logits(answer, target[batch])
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        pixels, labels = load_digits(return_X_y=True)
        odd = torch.tensor(labels % 2).float().unsqueeze(1)
        table = torch.cat([torch.tensor(pixels / 16.0).float(), odd], 1)
        features, target = table[:, :-1], table[:, -1]
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(4):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                answer = model(features[batch]).squeeze(1)
                loss = nn.functional.binary_cross_entropy_with_logits(answer, target[batch])
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        state = condition(record)
        if state.adversarial:
            return
        trained = [loss for loss in record.losses.values() if loss.training]
        for loss in trained:
            series = record.series("answer", str(loss.id))
            finding = None
            if len(series) >= self.batches:
                finding = self._column(record, loss, series, alone=len(trained) == 1) or self._tokens(
                    record, loss, series
                )
            if finding is not None:
                yield finding
                return

    def _column(self, record: Record, loss: Loss, series: Series, alone: bool) -> Finding | None:
        seen = series["columns"] > 0
        with np.errstate(all="ignore"):
            known = float(np.median((series["rows"] * np.log2(series["distinct"]))[seen])) if seen.any() else 0.0
        if np.sum(seen) < self.batches or not seen[-1] or not series["always"][-1] > 0 or not known >= self.bits:
            return None
        source = main_source(record)
        if source is not None and _cuts_inside(source):
            return None
        column, columns = int(series["column"][-1]), int(series["columns"][-1])
        root = _first_root(record)
        made_up = _made_up(root, loss)
        shape = record.layers[root].input_shape or () if root in record.layers else ()
        place = f"feature {column} of its input" if len(shape) < 3 else "the last step of its input"
        return self.finding(
            f"the target of `{loss.function}` is {place}, number by number, in all {int(np.sum(seen))} batches looked "
            f"at: `{root}` has only to copy it, and knows nothing where the answer is not known yet; leave the target "
            "out of the inputs (a window ends one step before what it shall predict)",
            severity="error" if alone and not made_up else "note", layer=root or None,
            location=_where(record, root, loss),
            evidence={"column": column, "columns": columns, "batches": int(np.sum(seen))}, sure=False,
        )  # fmt: skip

    def _tokens(self, record: Record, loss: Loss, series: Series) -> Finding | None:
        same = series["same"]
        seen = np.isfinite(same)
        if np.sum(seen) < self.batches or float(np.min(same[seen])) < self.same:
            return None
        argument, tokens = int(series["argument"][-1]), int(series["tokens"][-1])
        if (argument == 0) != (tokens == 1) or not _plain(record):
            return None
        state = condition(record)
        learned = state.steps >= self.steps and state.end <= self.copied * state.level
        given = "its input" if argument == 0 else "the input of its decoder"
        root = _first_root(record)
        where = loss.location if argument else _where(record, root, loss, tokens=True)
        return self.finding(
            f"the target of `{loss.function}` is {given} at {100 * float(np.min(same[seen])):.3g} % of the positions: "
            f"`{root}` learns to repeat the token that it sees, not the next one; shift them by one (input "
            "ids[:, :-1], target ids[:, 1:])",
            severity="error" if learned else "note", layer=root or None, location=where,
            evidence={"same": float(np.median(same[seen])), "argument": argument, "loss": state.end}, sure=False,
        )  # fmt: skip


def _first_root(record: Record) -> str:
    """The name of the model that was called first."""
    roots = [layer for layer in record.layers.values() if layer.is_root and layer.order >= 0 and layer.kind != "loss"]
    with_parameters = [
        layer for layer in roots if any(p.layer.startswith(layer.name) for p in record.parameters.values())
    ]
    return min(with_parameters or roots, key=lambda layer: layer.order).name if roots else ""


def _plain(record: Record) -> bool:
    """Whether the program says nothing of giving sequences back, and its model takes them as they are."""
    source = main_source(record)
    if source is None or _BY_DESIGN.search("\n".join(source.lines)) or _shifts_inside(source):
        return False
    decodes = [one for one in record.layers.values() if one.kind == "recurrent" and _DECODER.search(one.name)]
    return not decodes and any("def forward" in line for line in source.lines)


def _methods(source: Source) -> Iterator[ast.FunctionDef]:
    for made in source.nodes(ast.ClassDef):
        for node in made.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("__"):
                yield node


@lru_cache(maxsize=16)
def _shifts_inside(source: Source) -> bool:
    """Whether a class shifts what it is given: a slice that ends before the last element, a roll, a padding."""
    for method in _methods(source):
        for node in ast.walk(method):
            if isinstance(node, ast.Slice) and isinstance(node.upper, ast.UnaryOp):
                return True
            if isinstance(node, ast.Call) and called(node) in _SHIFTS:
                return True
    return False


@lru_cache(maxsize=16)
def _cuts_inside(source: Source) -> bool:
    """Whether a class takes a part of the columns of what it is given."""
    for method in _methods(source):
        for node in ast.walk(method):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
                cuts = [one for one in node.slice.elts if isinstance(one, ast.Slice)]
                if any(isinstance(end, (ast.Constant, ast.UnaryOp)) for cut in cuts for end in (cut.lower, cut.upper)):
                    return True
    return False


_Steps = list[tuple[int, ast.expr]]


def _ways(root: str, loss: Loss) -> tuple[_Steps, _Steps]:
    """The way back from the model's input, and from the target: the line and value of each assignment."""
    source = source_of(loss.location.file) if loss.location is not None else None
    if source is None or loss.location is None:
        return [], []
    models = [call for call in source.calls([root.rpartition(".")[2] or root]) if call.args]
    targets = [call for call in source.nodes(ast.Call, loss.location.line) if len(call.args) > 1]
    given = [step for call in models[:1] for step in _way(source, call.args[0])]
    return given, [step for call in targets[:1] for step in _way(source, call.args[1])]


def _way(source: Source, value: ast.expr) -> _Steps:
    return [(value.lineno, value), *(made[-1] for made in source.trail(value))]


def _parting(way: _Steps, other: _Steps) -> int | None:
    """The line on one way that takes a part of, or the whole of, an array that is on the other way too."""
    shared = {name for _, value in other for name in _taken_from(value)}
    return next((line for line, value in way if _taken_from(value) & shared), None)


def _taken_from(value: ast.expr) -> set[str]:
    """The variables that an expression is, or takes a part of."""
    parts = [value, *(node.value for node in ast.walk(value) if isinstance(node, ast.Subscript))]
    return {part.id for part in parts if isinstance(part, ast.Name)}


def _where(record: Record, root: str, loss: Loss, tokens: bool = False) -> Location | None:
    """The line that takes the input (the target, of tokens) from what both are made of, else that makes it."""
    given, wanted = _ways(root, loss)
    line = _parting(wanted, given) if tokens else _parting(given, wanted)
    if line is not None and loss.location is not None:
        return Location(loss.location.file, line)
    made = input_origin(record, root)[0] if root and not tokens else None
    return made or target_origin(loss.location)[0] or loss.location


def _made_up(root: str, loss: Loss) -> bool:
    """Whether the target is a column of an array of random numbers that the program makes: shown, not trained for."""
    source = source_of(loss.location.file) if loss.location is not None else None
    if source is None:
        return False
    _, wanted = _ways(root, loss)
    made = [made.value for _, target in wanted for base in _taken_from(target) for made in source.made(base)]
    return any(isinstance(value, ast.Call) and called(value) in _RANDOM for value in made)
