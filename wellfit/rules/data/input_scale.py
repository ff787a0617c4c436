"""DAT101: the numbers fed to the model are far from the scale that it is made for."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Layer, Record, Series
from wellfit.rule import Rule
from wellfit.rules.fitness import fits_poorly, settled
from wellfit.rules.layering import first_input, first_layer
from wellfit.source import input_origin, source_of


class InputScale(Rule):
    """The inputs of the model are not normalised.

    What it checks
        The first floating-point input of the model: rms above `rms_high` or below `rms_low`, or features whose rms
        differ by more than `spread` with elements above `spread_amax` (sparse inputs are left out). An error if the
        loss fits poorly, a note if the run copes. The mean is not judged. Where the model changes its input before its
        first weights see it, what these are given is judged by the same bounds (too large: only if the loss fits
        poorly).

    Why it hurts
        The first layer's outputs and gradients grow with its input: large inputs saturate units and kill ReLUs in the
        first steps, force a tiny learning rate, and let one large feature drown all others.

    Cure
        Standardise each feature with mean and standard deviation of the training set (pixels: divide by 255), once: in
        the data or in the model.

    Fix safety
        Unsafe: the same scaling is needed wherever the model is used.

    When it is wrong
        A model that scales its input itself is recognised (a norm layer first, what the first layer is given, or a
        first layer that gives less than `inside` of what its weights would make of this input); autoencoders, whose
        target is the input, are left out.

    References
        LeCun et al., Efficient BackProp (1998), 4.3; SageMaker Debugger, UMLAUT, TheDeepChecker have such a rule.
    """

    code = "DAT101"
    name = "input-scale"
    family = "data"
    summary = "the model's inputs are not normalised"
    reads = ("input", "given", "activation", "loss")
    consequences = (
        "init-gain",
        "initial-loss",
        "saturated",
        "dead-units",
        "lr-high",
        "lr-low",
        "diverged",
        "plateau",
        "exploding",
        "vanishing",
        "activation-growth",
        "output-collapse",
        "rank-collapse",
        "zero-grad-param",
        "scaler-thrash",
        "overflow-near",
    )
    fixes = (Fix("Standardise the inputs", override="normalize-input"),)

    rms_high: float = 10.0  # rms of the input; healthy runs 0.3 to 4.8
    rms_low: float = 0.01  # rms of the input, if no element exceeds ten times that
    spread: float = 100.0  # largest over smallest rms of the features
    spread_amax: float = 5.0  # largest element from which on the spread counts: below it no feature drowns the others,
    # one is only small (the pixels at the border of standardised images)
    sparse: float = 0.3  # share of zeros from which the spread of features says nothing
    inside: float = 0.05  # share of the output rms that the first layer's weights lead one to expect
    rescaled: float = 3.0  # ratio of the rms of what the first layer is given to that of the input: other scales
    batches: int = 3  # sampled batches
    unlearned: float = 0.4  # share of the first loss (or chance) that is left; copes below
    steps: int = 100  # steps before the fit of a growing run is judged

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        features = torch.randn(256, 4)
        labels = (features.sum(1) > 0).float()
        features = features * torch.tensor([1.0, 30.0, 400.0, 2000.0]) + torch.tensor([0.0, 50.0, 500.0, 3000.0])
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(100):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(features).squeeze(1), labels)
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        features = torch.randn(256, 4)
        labels = (features.sum(1) > 0).float()
        features = features * torch.tensor([1.0, 30.0, 400.0, 2000.0]) + torch.tensor([0.0, 50.0, 500.0, 3000.0])
        features = (features - features.mean(0)) / features.std(0)
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(100):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(model(features).squeeze(1), labels)
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        found = first_input(record)
        if found is None:
            return
        root, argument, series = found
        early = series.rms[: 10 * self.batches]
        if len(early) < self.batches or not np.all(np.isfinite(early)):
            return
        rms, amax = float(np.median(early)), float(np.median(series.amax[: len(early)]))
        zeros = float(np.median(series.low_share[: len(early)]))
        spreads = series.a[: len(early)]
        spread = float(np.median(spreads)) if np.all(np.isfinite(spreads)) and zeros < self.sparse else math.nan
        layer = first_layer(record)
        given = record.series("given", layer.name) if layer is not None and layer.root == root else None
        if rms > 0 and layer is not None and given is not None and len(given) >= self.batches:
            change = float(np.median(given.rms[: len(early)])) / rms
            if not 1 / self.rescaled <= change <= self.rescaled:
                if not _is_target(record, series):
                    yield from self._changed_inside(record, root, layer, given, rms)
                return
        if rms == 0 or _is_target(record, series) or self._scaled_inside(record, layer, rms):
            return
        if rms > self.rms_high:
            problem = f"its inputs have an rms of {rms:.3g} (largest {amax:.3g})"
        elif rms < self.rms_low and amax < 10 * self.rms_low:
            problem = f"its inputs are tiny: rms {rms:.2g}, largest {amax:.2g} (scaled twice?)"
        elif spread > self.spread and amax > self.spread_amax:
            problem = f"the rms of its features differ by a factor of {spread:.3g}"
        else:
            return
        yield self._found(record, problem, root, argument, layer, {"rms": rms, "amax": amax, "spread": spread})

    def _changed_inside(
        self, record: Record, root: str, layer: Layer, given: Series, input_rms: float
    ) -> Iterator[Finding]:
        """The model brings its input to another scale before its first weights see it."""
        early = given.rms[: 10 * self.batches]
        if not np.all(np.isfinite(early)):
            return
        rms, amax = float(np.median(early)), float(np.median(given.amax[: len(early)]))
        poor = fits_poorly(condition(record), self.unlearned)
        tiny = 0 < rms < self.rms_low and amax < 10 * self.rms_low
        if not tiny and not (rms > self.rms_high and poor):
            return
        where = _scaling_line(layer) or input_origin(record, root)[0] or layer.location
        yield self.finding(
            f"`{layer.name}`, the first layer with weights, is given numbers with an rms of {rms:.2g} (largest "
            f"{amax:.2g}), the model itself such with one of {input_rms:.2g}{' (scaled twice?)' if tiny else ''}, so "
            f"{'the data hardly count beside its bias' if tiny else 'it saturates or takes steps that are too large'}; "
            "scale the input once, in the data or in forward, to an rms of about 1",
            severity="error" if poor else "note", step=self.batches - 1, layer=layer.name, location=where,
            evidence={"rms": rms, "amax": amax, "input_rms": input_rms, "rms_low": self.rms_low,
                      "rms_high": self.rms_high},
            sure=settled(record, self.steps),
        )  # fmt: skip

    def _found(
        self, record: Record, problem: str, root: str, argument: int, layer: Layer | None, numbers: dict[str, float]
    ) -> Finding:
        state = condition(record)
        where, _ = input_origin(record, root, argument)
        if where is None:
            loaders = [loader.location for loader in record.loaders.values() if loader.location is not None]
            where = loaders[0] if loaders else (layer.location if layer is not None else None)
        return self.finding(
            f"`{root}` is fed raw numbers: {problem}, so its first layer saturates or takes steps that are far too "
            "large or too small; standardise each feature (pixels: divide by 255)",
            severity="error" if fits_poorly(state, self.unlearned) else "note", step=self.batches - 1,
            layer=layer.name if layer is not None else root, location=where,
            evidence={**{k: v for k, v in numbers.items() if math.isfinite(v)}, "rms_high": self.rms_high},
            sure=settled(record, self.steps),
        )  # fmt: skip

    def _scaled_inside(self, record: Record, layer: Layer | None, rms: float) -> bool:
        """Whether the model brings its input to scale itself before the first weights see it."""
        if layer is None or layer.kind in ("norm", "embedding"):
            return True
        if layer.kind != "linear":
            return False
        weight = next((p for n in layer.parameters if (p := record.parameters.get(n)) and len(p.shape) >= 2), None)
        output = record.series("activation", layer.name)
        if weight is None or not weight.fan_in or not len(output) or output.step[0] != 0:
            return False
        bias = max(
            (p.initial.rms for n in layer.parameters if (p := record.parameters.get(n)) and len(p.shape) == 1),
            default=0,
        )
        expected = weight.initial.rms * math.sqrt(weight.fan_in) * rms
        scale_up = rms < 1  # a tiny input is scaled inside if the output is far larger than weights and bias explain
        if scale_up:
            return bool(output.rms[0] > (expected + bias) / self.inside)
        return bool(output.rms[0] < self.inside * expected)


def _scaling_line(layer: Layer) -> Location | None:
    """Where the function that calls the first layer divides or multiplies by a number, before that."""
    name = layer.name.rpartition(".")[2]
    source = source_of(layer.location.file) if layer.location is not None else None
    if source is None or name.isdigit():
        return None
    for call in source.calls([name]):
        functions = source.nodes(ast.FunctionDef, call.lineno)
        begin = max((function.lineno for function in functions), default=call.lineno)
        lines = [each.lineno for each in source.nodes(ast.BinOp) if _scales(each.op, each.right)]
        lines += [each.lineno for each in source.nodes(ast.AugAssign) if _scales(each.op, each.value)]
        lines = [line for line in lines if begin <= line <= call.lineno]
        if lines:
            return Location(source.file, max(lines))
    return None


def _scales(operation: ast.operator, by: ast.expr) -> bool:
    """Whether a number is divided or multiplied by one far from 1."""
    number = by.value if isinstance(by, ast.Constant) else None
    if not isinstance(number, (int, float)) or not number:
        return False
    size = abs(number)
    return isinstance(operation, (ast.Mult, ast.Div)) and not 0.1 < size < 10


def _is_target(record: Record, series: Series) -> bool:
    """Whether the loss compares with the input itself (an autoencoder)."""
    for loss in record.losses.values():
        target = record.series("target", str(loss.id))
        if loss.training and len(target) and target.b[0] == 0 and target.count[0] == series.count[0]:
            same = np.isclose(target.rms[0], series.rms[0], rtol=0.05) and np.isclose(
                target.amax[0], series.amax[0], rtol=0.05
            )
            if same:
                return True
    return False
