"""DAT109: fractions are cut off by a cast to whole numbers."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from wellfit.condition import REGRESSIONS
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Record, Series
from wellfit.rule import Rule
from wellfit.rules.labels import learns_little
from wellfit.source import Source, called, main_source, source_of

_WHOLE_TYPES = {
    "long", "int", "int8", "int16", "int32", "int64", "uint8", "short", "byte", "char", "intp", "LongTensor",
    "IntTensor", "ByteTensor", "ShortTensor",
}  # fmt: skip
_CAST_METHODS = {"long", "int", "byte", "short", "char"}
_TAKES_TYPE = {"to", "type", "astype", "tensor", "as_tensor", "array", "asarray", "asanyarray"}
_SAME_NUMBERS = {
    "to", "cuda", "cpu", "float", "double", "view", "reshape", "unsqueeze", "squeeze", "contiguous", "astype", "type",
    "numpy", "values", "clone", "copy", "detach", "ravel", "flatten", "to_numpy", "transpose", "permute", "T",
}  # fmt: skip
_MAKERS = {
    "tensor", "as_tensor", "from_numpy", "array", "asarray", "FloatTensor", "Tensor", "TensorDataset", "DataLoader",
    "enumerate", "zip", "tqdm", "Variable", "stack", "cat", "vstack", "concatenate",
}  # fmt: skip
_SCALERS = ("StandardScaler", "MinMaxScaler", "RobustScaler", "MaxAbsScaler", "QuantileTransformer", "PowerTransformer")
_SCALING = {"zscore", "minmax_scale", "standardize", "standardise"}
_DEPTH = 8  # names followed back


class DtypeCast(Rule):
    """Numbers that were scaled to fractions are cast to whole numbers, so that nearly all of them become 0.

    What it checks
        First the numbers: a model's floating-point input, or the target of a regression, of at least `batches` sampled
        batches, whose sum, sum of squares and largest number are all whole, so that all elements are. Then the
        program's text: whether what made them casts to a whole type (`.long()`, `dtype=torch.uint8`) what a division or
        a scaler has just made. After a plain division the largest number is 1 at most, after a standardisation
        `largest`: more than that is a coarser unit that was chosen. It is an error if more than `unlearned` of the loss
        is left, else a note.

    Why it hurts
        A cast to whole numbers cuts fractions off without a word. Of pixels between 0 and 1 only the brightest stay, of
        standardised columns a few steps: most of what the data says is gone before the model sees it.

    Cure
        Cast to float32 instead: `torch.tensor(x, dtype=torch.float32)`. Whole types are for class labels and for what
        goes into an embedding.

    Fix safety
        Unsafe: the model is trained on other data, on those that were meant.

    When it is wrong
        Data turned into black and white on purpose by cutting fractions off; say so by a comparison (`x > 0.5`). Casts
        in files of their own, or inside a data set's class, are not seen.

    References
        NumPy documentation of ndarray.astype (a cast from float to int truncates); UMLAUT has a rule on input types.
    """

    code = "DAT109"
    name = "dtype-cast"
    family = "data"
    summary = "scaled data cast to whole numbers: the fractions are cut off"
    reads = ("input", "target", "loss")
    consequences = (
        "constant-input",
        "plateau",
        "underfit",
        "output-collapse",
        "rank-collapse",
        "lr-low",
        "overfit",
        "vanishing",
        "dead-units",
    )
    fixes = (Fix("Cast to float32 in place of whole numbers"),)

    batches: int = 5  # sampled batches
    largest: float = 10.0  # largest number after a standardisation and a cast; columns of data seldom exceed it
    unlearned: float = 0.2  # share of the lower one of first loss and loss of guessing that is left
    exact: float = 5e4  # largest sum that float32 tells to within 0.01

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_breast_cancer
        from sklearn.preprocessing import MinMaxScaler
        from torch import nn

        torch.manual_seed(0)
        x, y = load_breast_cancer(return_X_y=True)
        x = MinMaxScaler().fit_transform(x)
        x = torch.tensor(x, dtype=torch.long)
        y = torch.tensor(y, dtype=torch.long)
        model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(8):
            for batch in torch.randperm(len(x)).split(32):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch].float()), y[batch])
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0 > 0.5, dtype=torch.long), torch.tensor(y)  # black and white on purpose
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(4):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch].float()), y[batch])
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        for series, argument, place in self._whole_data(record):
            source = main_source(record) if place is None else source_of(place.file)
            if source is None:
                continue
            for cast in _casts_of_fractions(source, argument, place.line if place is not None else None):
                if float(np.max(series.amax)) <= (self.largest if cast.standardised else 1.0):
                    yield self._found(record, series, Location(source.file, cast.line))
                    return

    def _whole_data(self, record: Record) -> Iterator[tuple[Series, tuple[str, int], Location | None]]:
        """Inputs and targets of whole numbers: their series, which argument of which call they are, and its line."""
        for subject in record.subjects("input"):
            root, _, number = subject.rpartition("#")
            series = record.series("input", subject)
            if number.isdigit() and self._is_whole(series):
                yield series, (root.rpartition(".")[2], int(number)), None
        for loss in record.losses.values():
            series = record.series("target", str(loss.id))
            given = loss.training and loss.function in REGRESSIONS and loss.location is not None
            if given and self._is_whole(series):
                yield series, ("", 1), loss.location

    def _is_whole(self, series: Series) -> bool:
        """Whether sums and largest numbers of all batches are whole, as far as they can be told."""
        if len(series) < self.batches:
            return False
        count, amax = series.count, series.amax
        sums, squares = series.mean * count, series.rms**2 * count
        if not np.all(np.isfinite(sums) & np.isfinite(squares) & (squares < self.exact) & (amax <= self.largest)):
            return False
        return all(bool(np.all(np.abs(part - np.round(part)) < 0.02)) for part in (sums, squares, amax))

    def _found(self, record: Record, series: Series, where: Location) -> Finding:
        poor = learns_little(record, self.unlearned)
        zeros = float(np.median(series.low_share)) if series.what == "input" else 0.0
        gone = f", {100 * zeros:.0f} % of them 0" if zeros > 0 else ""
        what = f"the input of `{series.subject.rpartition('#')[0]}`" if series.what == "input" else "the target"
        return self.finding(
            f"{what} is made of whole numbers up to {float(np.max(series.amax)):.0f} only{gone}: it was scaled to "
            "fractions, and a cast to whole numbers cuts these off, so most of what the data says is lost"
            f"{' and the model learns little' if poor else ''}; cast to float32 instead",
            severity="error" if poor else "note", step=int(series.step[0]), location=where,
            evidence={"largest": float(np.max(series.amax)), "zeros": zeros, "batches": len(series),
                      "unlearned": self.unlearned},
            sure=record.finished,
        )  # fmt: skip


class _Cast:
    """A cast in the text; `standardised` if what it cuts is below 0 as well."""

    def __init__(self, line: int, standardised: bool) -> None:
        self.line = line
        self.standardised = standardised


@lru_cache(maxsize=16)
def _casts_of_fractions(source: Source, argument: tuple[str, int], line: int | None) -> tuple[_Cast, ...]:
    """The casts to whole numbers of what was divided or scaled, on the way to an argument of a call.

    Args:
        argument: name of what is called (empty: anything) and which of its arguments is meant.
        line: of the call; None is any.
    """
    name, place = argument
    found = []
    for call in source.nodes(ast.Call, line):
        if (name and called(call) != name) or len(call.args) <= place:
            continue
        for value in _way(source, call.args[place], call.lineno):
            for node in ast.walk(value):
                operand = _cast_operand(node)
                kind = _fraction(source, operand, node.lineno) if operand is not None else None  # type: ignore[attr-defined]
                if kind is not None:
                    found.append(_Cast(node.lineno, kind == "standardised"))  # type: ignore[attr-defined]
    return tuple(found)


def _way(source: Source, value: ast.expr, line: int) -> Iterator[ast.expr]:
    """An expression, and the expressions that made the variables that it hands on."""
    for _ in range(_DEPTH):
        yield value
        bare = _bare(value)
        made = _made(source, bare.id, line) if isinstance(bare, ast.Name) else None
        if made is None:
            return
        line, value = made


def _bare(value: ast.expr) -> ast.expr:
    """What an expression hands on: without moves, casts, slices and constructors around it."""
    for _ in range(4 * _DEPTH):
        if isinstance(value, ast.Subscript) or (isinstance(value, ast.Attribute) and value.attr in _SAME_NUMBERS):
            value = value.value
        elif isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and _is_method(value):
            value = value.func.value
        elif isinstance(value, ast.Call) and value.args and called(value) in _MAKERS | _WHOLE_TYPES:
            value = value.args[0]
        else:
            break
    return value


def _is_method(call: ast.Call) -> bool:
    """Whether a call is of a method that keeps the numbers, or casts them."""
    return called(call) in _SAME_NUMBERS | _CAST_METHODS and not _of_module(call)


def _of_module(call: ast.Call) -> bool:
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    return isinstance(owner, ast.Name) and owner.id in ("torch", "np", "numpy")


def _made(source: Source, name: str, line: int) -> tuple[int, ast.expr] | None:
    """The last assignment of a variable above a line, and its value; through a split by its position."""
    before = [made for made in source.made(name) if made.line < line]
    if not before:
        return None
    at, value, place = max(before, key=lambda made: made.line)
    if isinstance(value, ast.Call) and place is not None:
        if called(value) == "train_test_split":
            return (at, value.args[place // 2]) if len(value.args) > place // 2 else None
        if called(value) in ("zip", "TensorDataset") and len(value.args) > place:
            return at, value.args[place]
    return at, value


def _cast_operand(node: ast.AST) -> ast.expr | None:
    """What a call casts to a whole type; None if it does not."""
    if not isinstance(node, ast.Call):
        return None
    name, method = called(node), isinstance(node.func, ast.Attribute) and not _of_module(node)
    if method and name in _CAST_METHODS and not node.args and isinstance(node.func, ast.Attribute):
        return node.func.value
    if not method and name in _WHOLE_TYPES and len(node.args) == 1 and isinstance(node.func, ast.Attribute):
        return node.args[0]  # torch.LongTensor(x), np.int64(x); not int(x)
    if name not in _TAKES_TYPE:
        return None
    words = [word.value for word in node.keywords if word.arg == "dtype"]
    if method and isinstance(node.func, ast.Attribute):
        return node.func.value if any(map(_is_whole_type, [*node.args, *words])) else None
    return node.args[0] if node.args and any(map(_is_whole_type, [*node.args[1:], *words])) else None


def _is_whole_type(value: ast.expr) -> bool:
    if isinstance(value, ast.Attribute):
        return value.attr in _WHOLE_TYPES
    return getattr(value, "id", getattr(value, "value", None)) in _WHOLE_TYPES


def _fraction(source: Source, value: ast.expr, line: int) -> str | None:
    """Whether an expression was just "divided" or "standardised"; None if neither, or it was rounded since."""
    for _ in range(_DEPTH):
        value = _bare(value)
        if isinstance(value, ast.BinOp):
            return _divided(value)
        if isinstance(value, ast.Call):
            return _scaled(source, value)
        made = _made(source, value.id, line) if isinstance(value, ast.Name) else None
        if made is None:
            return None
        line, value = made
    return None


def _divided(value: ast.BinOp) -> str | None:
    """Of a sum, a difference or a quotient; a sum may be meant to round, a product to count in smaller units."""
    inner = _bare(value.left)
    if isinstance(value.op, ast.Div):
        return "standardised" if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub) else "divided"
    if isinstance(value.op, ast.Sub) and isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Div):
        return "standardised"
    return None


def _scaled(source: Source, call: ast.Call) -> str | None:
    """Of the call of a scaler's transform."""
    name = called(call)
    if name in _SCALING:
        return "standardised"
    if name not in ("fit_transform", "transform") or not isinstance(call.func, ast.Attribute):
        return None
    makers: Sequence[ast.expr] = [call.func.value]
    if isinstance(call.func.value, ast.Name):
        makers = [made.value for made in source.made(call.func.value.id)]
    said = " ".join(ast.unparse(maker) for maker in makers)
    return "standardised" if any(scaler in said for scaler in _SCALERS) else None
