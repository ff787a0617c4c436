"""CRV609: the model is in the wrong mode: training steps in eval mode, or evaluation in train mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Layer, Record, location_of
from wellfit.rule import Family, Rule
from wellfit.rules.layering import called_models
from wellfit.source import source_of

WATCHED = 3  # watched steps that a mode must be met in
MODE_EVENTS = 200  # the probe writes no more calls of train() and eval() than these


class EvalMode(Rule):
    """The model trains in eval mode, or is evaluated while dropout or batch norm still act as in training.

    What it checks
    Two things. (1) Which dropout and batch-norm layers were in eval mode in the forward pass of training steps: with
    the whole model in eval mode for `fewest_steps` steps, dropout and batch statistics are off while the weights learn.
    (2) Which of them, or which call of `F.dropout` or `F.scaled_dot_product_attention`, were still active in passes
    without gradient.

    Why it hurts
    In eval mode batch norm uses running statistics that are never updated (zero mean and unit variance at the start),
    and dropout does not regularise. In train mode evaluation is random, gives lower scores than the model deserves,
    and lets the running statistics of batch norm learn from the test data.

    Cure
    Call `model.train()` before each pass over the training data and `model.eval()` before each evaluation; give
    functional dropout `training=self.training`.

    Fix safety
    Safe to write: it is what the layers were made for. The numbers of the run change, as they should.

    When it is wrong
    Batch norm that is in eval mode while its weights learn is only noted where dropout is in train mode: it may be
    frozen on purpose, and is left out where its weights get no gradient. Left out are also dropout that is switched on
    for Monte-Carlo estimates after `model.eval()`, `torch.optim.swa_utils.update_bn`, and models that no optimizer
    trains (a mean teacher). Silence it with `# wellfit: ignore[eval-mode]` where the whole model shall train in eval
    mode.

    References
    Ioffe and Szegedy 2015, "Batch Normalization"; PyTorch documentation of `Module.eval`; Zhang et al., "TrainCheck".
    """

    code = "CRV609"
    name = "eval-mode"
    family: ClassVar[Family] = "curve"
    summary = "training in eval mode, or evaluation in train mode"
    reads = ("event.forward-mode", "event.mode", "event.evaluation", "gradient", "loss")
    consequences = (
        "overfit",
        "plateau",
        "lr-high",
        "diverged",
        "exploding",
        "dead-units",
        "saturated",
        "output-collapse",
        "non-finite-forward",
        "non-finite-grad",
        "init-gain",
        "label-noise",
    )
    fixes = (
        Fix(
            "Call model.train() before training and model.eval() before evaluation", override="mode=correct", safe=True
        ),
        Fix("Give functional dropout training=self.training", safe=True),
    )

    fewest_steps: int = 10  # training steps in eval mode; one or two happen while a program warms up

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        model.train()
        for _epoch in range(4):
            for i in range(0, 1400, 50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[i : i + 50]), y[i : i + 50])
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                print("accuracy", (model(x[1400:]).argmax(1) == y[1400:]).float().mean().item())

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _epoch in range(4):
            model.train()
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                print("accuracy", (model(x[1400:]).argmax(1) == y[1400:]).float().mean().item())

    def check(self, record: Record) -> Iterator[Finding]:
        layers = record.layers
        yield from self._training_in_eval(record, layers)
        yield from self._functional_dropout(record)
        yield from self._evaluation_in_train(record, layers)

    def _training_in_eval(self, record: Record, layers: dict[str, Layer]) -> Iterator[Finding]:
        """Training steps with dropout and batch norm in eval mode."""
        trained = _trained_names(record)
        sensitive = {layer.name for layer in _with_mode(list(layers), layers) if _is_trained(layer, trained)}
        if not sensitive:
            return
        met = [_exactly(record, layers, span) for span in _met_in_forward(record, sensitive)]
        spans = met or _left_in_eval(record, layers, sensitive)
        length = sum(span.end - span.start for span in spans)
        if length < self.fewest_steps:
            return
        span = max(spans, key=lambda one: one.end - one.start)
        off = [layers[name] for name in span.off if not _is_frozen(record, layers[name], span)]
        if not off:
            return
        eval_call = _put_in_eval(record, span.start)
        from_start = min(one.start for one in spans) <= 1  # an event may be written when its step is done
        train_call = None if from_start else _last_mode(record, span.start, training=True)
        evidence = {"steps": length, "from_step": span.start, "layers": list(span.off[:20]),
                    "fewest_steps": self.fewest_steps}  # fmt: skip
        if eval_call is not None and not span.on:
            since = "from the start" if from_start else "after an evaluation: train() is not called again"
            yield self.finding(
                f"{length} training steps ran in eval mode, {since}; so {_effect(off)}; "
                "call model.train() at the top of every pass over the training data",
                severity="error", step=span.start, layer=off[0].name, location=train_call or eval_call,
                evidence=evidence,
            )  # fmt: skip
        else:
            yield self.finding(
                f"{len(off)} of {len(off) + len(span.on)} dropout and batch-norm layers were in eval mode in {length} "
                f"training steps (first `{off[0].name}`); so {_effect(off)}; leave it if they are frozen on purpose, "
                "else call model.train() before training",
                severity="note", step=span.start, layer=off[0].name, location=eval_call or off[0].location,
                evidence=evidence,
            )  # fmt: skip

    def _functional_dropout(self, record: Record) -> Iterator[Finding]:
        """Functional dropout that was active although the model was in eval mode."""
        told: set[tuple[str, int]] = set()
        for event in record.events("evaluation"):
            if event["training"]:
                continue
            for call in event["functional_dropout"]:
                if not isinstance(call, dict):
                    continue
                place = location_of(call)
                key = (place.file, place.line) if place else ("", 0)
                if key in told:
                    continue
                told.add(key)
                name = "F.dropout" if call.get("function") == "dropout" else f"F.{call.get('function')}"
                yield self.finding(
                    f"{name} (p = {call.get('p')}) still drops values in evaluation although the model is in eval "
                    "mode, so results are random and worse than the model; give it "
                    + ("training=self.training" if name == "F.dropout" else "dropout_p=p if self.training else 0.0"),
                    severity="error", step=event["step"], layer=str(event["root"]) or None, location=place,
                    evidence={"p": float(call.get("p") or 0.0), "function": name},
                )  # fmt: skip

    def _evaluation_in_train(self, record: Record, layers: dict[str, Layer]) -> Iterator[Finding]:
        """Passes without gradient, every one of them with dropout or batch norm as in training."""
        trained = {record.parameters[name].layer for name in _trained_names(record)}
        roots = {layers[name].root for name in trained if name in layers}  # a teacher's passes are part of a step
        events = [event for event in record.events("evaluation") if event["root"] in roots or not roots]
        events = [event for event in events if not _renews_statistics(event)]
        guilty: list[tuple[dict[str, Any], list[Layer], bool]] = []
        for event in events:
            names = event.get("training_layers")
            active = _with_mode(names if isinstance(names, list) else [], layers)
            if event["training"] and (active or event["functional_dropout"]):
                guilty.append((event, active, True))
            elif not event["training"] and any(layer.kind != "dropout" for layer in active):
                guilty.append((event, active, False))
        if not guilty or condition(record).adversarial:
            return
        event, active, whole = guilty[-1]
        never_eval = whole and len(guilty) == len(events) and not _last_mode_any(record, training=False)
        passes, total = len({one["step"] for one, _, _ in guilty}), len({one["step"] for one in events})
        often = f"{passes} evaluation passes" if passes > 1 else "one evaluation pass"
        what = f"`{active[0].name}`" if active else "functional dropout"
        yield self.finding(
            f"the model is in train mode in {often} ({what} acts as in training), so scores are "
            "random or depend on the batch and batch norm learns from the data it is tested on; call model.eval() "
            "before evaluation and model.train() after it",
            severity="error" if never_eval and event["step"] > 0 else "note",
            step=event["step"], layer=active[0].name if active else None, location=location_of(event),
            evidence={"passes": passes, "evaluations": total, "layers": [layer.name for layer in active[:20]]},
            sure=record.finished,
        )  # fmt: skip


@dataclass(frozen=True)
class _Span:
    """Training steps `start` to before `end` with layers in eval mode (`off`) and others not (`on`)."""

    start: int
    end: int
    off: tuple[str, ...]
    on: tuple[str, ...]


def _is_frozen(record: Record, layer: Layer, span: _Span) -> bool:
    """Whether a layer's own parameters got no gradient in these steps though others did."""

    def has_gradient(name: str) -> bool:
        step = record.series("gradient", name).step
        return bool(np.any((step >= span.start) & (step < span.end)))

    own = {name if name in record.parameters else f"{layer.name}.{name}" for name in layer.parameters}
    if not own or any(map(has_gradient, own)):
        return False
    return any(map(has_gradient, record.subjects("gradient")))


def _renews_statistics(event: dict[str, Any]) -> bool:
    """Whether a pass belongs to `update_bn`, which needs train mode."""
    place = location_of(event)
    source = source_of(place.file) if place is not None else None
    return source is not None and place is not None and "update_bn" in source.line(place.line)


def _met_in_forward(record: Record, sensitive: set[str]) -> list[_Span]:
    """What the forward passes of watched training steps showed.

    One watched step will do where the whole model was put in eval mode before it.
    """
    states = record.events("forward-mode")
    watched = record.watched_steps
    spans = []
    for place, state in enumerate(states):
        end = states[place + 1]["step"] if place + 1 < len(states) else record.step_count
        off = tuple(name for name in state["eval_layers"] if name in sensitive)
        on = tuple(name for name in state["training_layers"] if name in sensitive)
        called = not on and _put_in_eval(record, state["step"]) is not None
        if off and np.sum((watched >= state["step"] - 1) & (watched < end)) >= (1 if called else WATCHED):
            spans.append(_Span(state["step"], end, off, on))
    return spans


def _exactly(record: Record, layers: dict[str, Layer], span: _Span) -> _Span:
    """A span of steps from the call of eval() on the model that holds its layers to the next call of train().

    The span itself begins and ends with watched steps, which may lie far behind the calls.
    """
    roots = {layers[name].root for name in span.off if name in layers} & set(called_models(record))
    events = [event for event in record.events("mode") if event["root"] in roots]
    if span.on or len(roots) != 1:
        return span
    before = [event for event in events if event["step"] <= span.start]
    known = len(record.events("mode")) < MODE_EVENTS
    if not before or before[-1]["training"] or not (known or len(before) < len(events)):
        return span
    start = before[-1]["step"]
    if _seen_training(record, record.events("forward-mode"), start, span.start, set(span.off)):
        return span  # the layers were put in train mode one by one
    end = next((event["step"] for event in events[len(before) :] if event["training"]), span.end)
    return replace(span, start=start, end=max(min(end, span.end), span.start))


def _left_in_eval(record: Record, layers: dict[str, Layer], sensitive: set[str]) -> list[_Span]:
    """What the calls of train() and eval() tell of the steps that were not watched."""
    roots = called_models(record)
    events = [event for event in record.events("mode") if event["root"] in roots]
    if not any(event["training"] for event in events):
        return []  # nothing is known of calls of train()
    full = len(record.events("mode")) >= MODE_EVENTS
    states = record.events("forward-mode")
    spans: list[_Span] = []
    for place, event in enumerate(events):
        last = place + 1 == len(events)
        if event["training"] or (last and full) or event["location"] is None:
            continue
        start, end = event["step"], record.step_count if last else events[place + 1]["step"]
        name = event["root"]
        off = [layer for layer in sensitive if layer.startswith(name + ".")] or sorted(sensitive)
        if end > start and not _seen_training(record, states, start, end, set(off)):
            spans.append(_Span(start, end, tuple(sorted(off, key=list(layers).index)), ()))
    return spans


def _seen_training(record: Record, states: list[dict[str, Any]], start: int, end: int, names: set[str]) -> bool:
    """Whether a watched step among these had one of the layers in train mode after all."""
    watched = record.watched_steps
    for step in watched[np.searchsorted(watched, start) : np.searchsorted(watched, end)]:
        state = next((state for state in reversed(states) if state["step"] <= step + 1), None)
        if state is not None and names & set(state["training_layers"]):
            return True
    return False


def _with_mode(names: list[Any], layers: dict[str, Layer]) -> list[Layer]:
    """The layers whose result depends on the mode: dropout that drops, norms with running statistics."""
    found = []
    for name in names:
        layer = layers.get(name) if isinstance(name, str) else None
        if layer is None:
            continue
        if layer.kind == "dropout":
            share = layer.attributes.get("p", 0.5)
            if isinstance(share, (int, float)) and share > 0:
                found.append(layer)
        elif "BatchNorm" in layer.class_name and layer.attributes.get("track_running_stats", True):
            found.append(layer)
    return found


def _trained_names(record: Record) -> set[str]:
    """The names of parameters that an optimizer holds and that take a gradient."""
    return {
        n for n, parameter in record.parameters.items() if parameter.optimizer is not None and parameter.requires_grad
    }


def _is_trained(layer: Layer, trained: set[str]) -> bool:
    """Whether a layer, or for one without parameters of its own its neighbourhood, learns."""
    if layer.parameters:
        return any(name in trained or f"{layer.name}.{name}" in trained for name in layer.parameters)
    if layer.is_root:
        return bool(trained)
    prefix = layer.name.rpartition(".")[0]
    while prefix:
        if any(name.startswith(prefix + ".") for name in trained):
            return True
        if layer.kind != "dropout":
            return False
        prefix = prefix.rpartition(".")[0]
    return bool(trained) and "." not in layer.name


def _last_mode(record: Record, step: int, *, training: bool) -> Location | None:
    """Where a whole model was last put into this mode, at or before this step."""
    return next((location_of(event) for event in _modes(record, step) if event["training"] == training), None)


def _put_in_eval(record: Record, step: int) -> Location | None:
    """Where a whole model was put in eval mode, if it still is at this step; layers of one that is in train mode may
    have been, as batch norm is in fine-tuning."""
    last = next(_modes(record, step), None)
    return location_of(last) if last is not None and not last["training"] else None


def _modes(record: Record, step: int) -> Iterator[dict[str, Any]]:
    """The calls of train() and eval() of whole models at or before a step, the last first."""
    roots = called_models(record)
    for event in reversed(record.events("mode")):
        if event["step"] <= step and (event["root"] in roots or not roots):
            yield event


def _last_mode_any(record: Record, *, training: bool) -> bool:
    return any(event["training"] == training for event in record.events("mode"))


def _effect(layers: list[Layer]) -> str:
    """What the layers do not do in eval mode."""
    norm = [layer for layer in layers if layer.kind == "norm"]
    dropout = [layer for layer in layers if layer.kind == "dropout"]
    said = []
    if norm:
        said.append(f"batch norm (`{norm[0].name}`) neither uses nor updates its statistics")
    if dropout:
        said.append(f"dropout (`{dropout[0].name}`) does not regularise")
    return " and ".join(said)
