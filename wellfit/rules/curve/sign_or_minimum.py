"""CRV608: a loss that cannot be negative is, or a loss that falls without bound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import Condition, condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Graph, Loss, Record
from wellfit.record.curves import Floats
from wellfit.rule import Family, Rule
from wellfit.rules.layering import first_backward, outermost
from wellfit.rules.wiring import early_graphs, head_region

_BOUNDS = ("Clamp", "Maximum", "Minimum", "Hardtanh", "Threshold", "Relu")
_LOSSES = ("Entropy", "Nll", "MseLoss", "L1Loss", "Huber", "KlDiv")  # in names of torch's nodes
_CERTAIN = 20  # watched steps after which the sign of a logarithm will not change any more
_LOGARITHMS = ("nll_loss", "kl_div")
_BINARY = "its targets are not between 0 and 1; give it 0 and 1, or take cross_entropy for more than two classes"
_NEVER_NEGATIVE = {
    "nll_loss": "it is given scores or probabilities where it expects their logarithms; take log_softmax before it, or "
    "cross_entropy on the plain outputs",
    "kl_div": "it is given probabilities where it expects their logarithms; take log_softmax before it",
    "cross_entropy": "its target probabilities are negative; make them positive",
    "binary_cross_entropy": _BINARY,
    "binary_cross_entropy_with_logits": _BINARY,
}


class SignOrMinimum(Rule):
    """The loss goes where no loss of its kind can go: below 0, or down without end.

    What it checks
    Cross-entropy, negative log-likelihood or divergence of PyTorch's below `zero` in `times` watched steps or more,
    where targets or predictions are such that they make it so. A loss that is a fixed negative multiple of such a
    function, which grows by `grown` over the run. And where the program computes a negative loss of its own: one that
    it clamps, and that ends at exactly this bound for `floor` of the run, without gradient; or one that falls ever
    faster to `deep` times what it was, while the outputs of the model grow `blown` times. And any loss that began
    above 0 and ended below it at `beyond` times its first size, while what a layer gives grew `blown` times.

    Why it hurts
    Such a loss has no minimum where the model is right: the optimizer follows it to ever larger outputs, and away from
    the answer.

    Cure
    Give the function what it expects; turn the sign where a likelihood or a reward is to be made large.

    Fix safety
    The program means something else afterwards: what it was meant to.

    When it is wrong
    Densities, evidence bounds and rewards may be negative losses rightly: they slow down as they fall, and nothing is
    said of them. Two players that turn each other's sign are left out.

    References
    PyTorch documentation, nn.NLLLoss and nn.BCELoss; Zhang et al. 2021, "AutoTrainer".
    """

    code = "CRV608"
    name = "sign-or-minimum"
    family: ClassVar[Family] = "curve"
    summary = "the loss is negative where it cannot be, or falls without bound"
    reads = ("loss", "output", "activation.rms")
    consequences = (
        "plateau",
        "diverged",
        "zero-grad-param",
        "exploding",
        "saturated",
        "activation-growth",
        "output-collapse",
    )
    fixes = (Fix("Give the loss what it expects, or turn its sign"),)

    zero: float = -1e-4  # below it a value is negative; rounding gives -1e-7
    times: int = 3  # watched steps with a negative value
    grown: float = 1.5  # mean of the last third of what is maximised over that of the first
    floor: float = 0.3  # share of the run at the end in which the loss is one and the same number
    deep: float = 100.0  # size of the loss at the end over that in the first tenth; densities stay below 10
    beyond: float = 1e3  # size of the loss at the end over the largest of the first steps; densities stay below 10
    blown: float = 10.0  # rms of the last layer's output at the end over that at the start
    fewest: int = 50  # steps

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        images, labels = load_digits(n_class=3, return_X_y=True)
        x, y = torch.tensor(images / 16.0).float(), torch.tensor(labels).float().unsqueeze(1)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _epoch in range(6):
            for batch in torch.randperm(500).split(50):
                loss = nn.functional.binary_cross_entropy_with_logits(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.rand(1000, 1) * 6 - 3
        y = 0.1 * torch.sin(x) + 0.02 * torch.randn_like(x)
        model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        # The density of a narrow distribution is large, and minus its logarithm negative.
        for _ in range(200):
            batch = torch.randint(0, 1000, (64,))
            mean, log_width = model(x[batch]).chunk(2, 1)
            loss = (0.5 * ((y[batch] - mean) / log_width.exp()) ** 2 + log_width + 0.919).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        trained = [loss for loss in record.losses.values() if loss.training]
        known = [loss for loss in trained if loss.function in _NEVER_NEGATIVE]
        below = [finding for loss in known for finding in self._below_zero(record, loss)]
        yield from below[:1]
        if below or not record.finished:
            return
        state = condition(record)
        if state.adversarial or state.verdict == "non-finite" or len(record.loss_sites()) != 1:
            return
        found = (
            list(self._maximised(record, known[0]))
            if known
            else []
            if trained
            else list(self._unbounded(record, state))
        )
        yield from found or self._through_zero(record)

    def _below_zero(self, record: Record, loss: Loss) -> Iterator[Finding]:
        curve = record.training_losses(loss.id)
        below = np.flatnonzero(curve.value < self.zero)
        if len(below) < self.times:
            return
        if loss.function in _LOGARITHMS and len(below) < 0.95 * len(curve):
            return  # now above and now below 0: log-probabilities times a reward
        if not _ill_given(record, loss):
            return
        lowest = float(np.nanmin(curve.value))
        yield self.finding(
            f"{loss.function} is {lowest:.3g}, and cannot be negative for what it is meant for, so it has no minimum "
            f"where the model is right: {_NEVER_NEGATIVE[loss.function]}",
            severity="error", step=int(curve.step[below[0]]), location=loss.location,
            evidence={"lowest": lowest, "negative": len(below), "watched": len(curve), **_targets(record, loss)},
            sure=record.finished or loss.function not in _LOGARITHMS or len(curve) >= _CERTAIN,
        )  # fmt: skip

    def _maximised(self, record: Record, loss: Loss) -> Iterator[Finding]:
        """Backward is called on minus the loss, and it grows."""
        plain, given = record.training_losses(loss.id), record.loss()
        if len(plain) < 10 or len(given) < self.fewest or not _holds_models(record):
            return
        with np.errstate(all="ignore"):
            ratio = given.at(plain.step) / plain.value
        ratio = ratio[np.isfinite(ratio)]
        middle = float(np.median(ratio)) if len(ratio) >= 10 else 1.0
        if middle >= 0 or float(np.quantile(np.abs(ratio - middle), 0.9)) > 1e-3 * abs(middle):
            return
        third = len(given) // 3
        first, last = (float(np.mean(-part)) for part in (given.value[:third], given.value[-third:]))
        if not last > self.grown * first > 0:
            return
        yield self.finding(
            f"backward is called on {middle:.3g} times {loss.function}, which grew from {first:.3g} to {last:.3g}: the "
            "model is trained to be wrong; leave the minus out",
            severity="error", step=0, location=first_backward(record) or loss.location,
            evidence={"multiple": middle, "first": first, "last": last},
        )  # fmt: skip

    def _unbounded(self, record: Record, state: Condition) -> Iterator[Finding]:
        """A loss of the program's own that fell to a bound, or falls ever faster."""
        value = record.loss().value
        if len(value) < self.fewest or not np.all(np.isfinite(value)) or not value[-1] < 0 or not value[-1] < value[0]:
            return
        still = int(np.argmax(value[::-1] != value[-1])) if np.any(value != value[-1]) else len(value)
        bounded = self.floor * len(value) <= still < len(value) and self._at_rest(record)
        if not bounded and not (self._ever_faster(value) and self._outputs_grow(record)):
            return
        how = (
            f"fell to exactly {value[-1]:.4g} and has stayed there for {still} steps: a bound that the program sets, "
            "where no gradient is left"
            if bounded
            else f"falls ever faster, from {state.start:.3g} to {state.end:.3g}, with ever larger outputs of the model"
        )
        yield self.finding(
            f"the loss {how}, so it is not the distance from an answer that is made small; turn its sign, as where a "
            "log-likelihood or a reward is to be made large",
            severity="error", step=len(value) - still if bounded else None, location=first_backward(record),
            evidence={"start": state.start, "end": float(value[-1]), "same_for": still, "steps": len(value)},
        )  # fmt: skip

    def _through_zero(self, record: Record) -> Iterator[Finding]:
        """A loss that began as a positive number and ended as a negative one that no density of a model has."""
        value = record.loss().value
        if len(value) < self.fewest or not np.all(np.isfinite(value)) or not _holds_models(record):
            return
        first, end = value[:5], float(np.median(value[-max(5, len(value) // 10) :]))
        size = max(1.0, float(np.max(first)))  # what begins at 0 may become any number
        if not (np.all(first > 0) and end < -self.beyond * size and self._any_grows(record)):
            return
        below = int(np.argmax(value < -self.beyond * size))
        yield self.finding(
            f"the loss fell from {float(first[0]):.3g} through 0 to {end:.3g}, {-end / size:.0e} times its first size: "
            "a part of it has no minimum, so the model leaves its task for ever larger numbers; turn the sign of that "
            "part, as of a divergence or a regulariser that is to be made small",
            severity="error", step=int(record.loss().step[below]), location=_own_part(record) or first_backward(record),
            evidence={"start": float(first[0]), "end": end, "steps": len(value), "beyond": self.beyond},
        )  # fmt: skip

    def _any_grows(self, record: Record) -> bool:
        return any(self._grows(record, name) for name in record.subjects("activation"))

    def _ever_faster(self, value: Floats) -> bool:
        """The loss fell more in the last third than in the one before, and far below where it began."""
        parts = [float(np.mean(part)) for part in np.array_split(value, 12)]
        size = float(np.median(np.abs(value[: max(5, len(value) // 10)])))
        fall, before = parts[7] - parts[11], parts[3] - parts[7]
        return fall > before > 0 and -parts[11] > self.deep * size

    def _at_rest(self, record: Record) -> bool:
        """Whether the program clamps the loss, and no gradient is left at the end."""
        graphs = early_graphs(record)
        if not graphs or not any(node.op.startswith(_BOUNDS) for node in head_region(graphs[0])):
            return False
        ends = [record.series("gradient", name).rms[-3:] for name in record.subjects("gradient")]
        return bool(ends) and all(len(end) == 3 and not np.any(end) for end in ends)

    def _outputs_grow(self, record: Record) -> bool:
        return any(self._grows(record, name) for name in outermost(record))

    def _grows(self, record: Record, layer: str) -> bool:
        size = record.series("activation", layer).rms
        size = size[np.isfinite(size)]
        return len(size) >= 10 and float(np.median(size[-3:])) > self.blown * float(np.median(size[:3])) > 0


def _own_part(record: Record) -> Location | None:
    """Where the part of a sum is computed that is no loss function of torch's: the only one without a minimum."""
    for graph in early_graphs(record):
        parts = graph.inputs(0) if graph.loss is not None and graph.loss.op.startswith(("Add", "Sub")) else []
        own = [part for part in parts if not _leads_to_a_loss(graph, part.id)]
        if len(parts) > 1 and len(own) == 1:
            return own[0].location
    return None


def _leads_to_a_loss(graph: Graph, id: int) -> bool:
    """Whether a loss function of torch's lies behind a node, with only scaling and reductions between."""
    for _ in range(6):
        node = graph.node(id)
        if node is not None and any(word in node.op for word in _LOSSES):
            return True
        inputs = graph.inputs(id)
        if len(inputs) != 1:
            return False
        id = inputs[0].id
    return False


def _ill_given(record: Record, loss: Loss) -> bool:
    """Whether what a loss function was given explains that it is negative; weights below 0 (of rewards) would too."""
    if loss.function in _LOGARITHMS:
        return bool(np.any(record.series("output", str(loss.id)).high > 1e-4))
    target = record.series("target", str(loss.id))
    return bool(np.any(target.low < 0) or (loss.function != "cross_entropy" and np.any(target.high > 1)))


def _targets(record: Record, loss: Loss) -> dict[str, float | int | str | list[str]]:
    """The range of the targets, where it was seen."""
    target = record.series("target", str(loss.id))
    if not len(target):
        return {}
    return {"lowest_target": float(np.min(target.low)), "highest_target": float(np.max(target.high))}


def _holds_models(record: Record) -> bool:
    """Whether one optimizer trains the parameters of models: an attack changes an input instead."""
    optimizers = list(record.optimizers.values())
    return len(optimizers) == 1 and bool(optimizers[0].parameters) and not optimizers[0].unknown_parameters
