"""UPD508: what is frozen is not what was meant."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from typing import ClassVar

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Parameter, Record
from wellfit.rule import Family, Rule
from wellfit.rules.fitness import fits_poorly
from wellfit.rules.fresh import is_fresh
from wellfit.source import Source, called, source_of

_MISSPELT = (
    "require_grad", "require_grads", "requires_grads", "required_grad", "requires_gradient", "require_gradient",
    "requiresgrad", "requires_grad_",
)  # fmt: skip
_OF_MODULES = ("children", "modules", "named_children", "named_modules")
_OF_PARAMETERS = ("parameters", "named_parameters")


class FrozenIntent(Rule):
    """A line that should freeze layers does nothing, or layers are frozen that were never trained.

    What it checks
    (1) The program's text, beside what was recorded: `requires_grad` is set on a module instead of its parameters, or
    an attribute with a similar name on parameters, in a line that is surely run; and all parameters of that module are
    trained all the same. (2) In a run whose loss stays above `unlearned` of where it began: at least `share` of a
    model's weights are frozen, though they look freshly made and were not trained before.

    Why it hurts
    (1) Python takes any attribute, and torch looks at the parameters only: layers that should keep what they know are
    changed. (2) Layers that stay random hand on little of what is in the data.

    Cure
    (1) Call `requires_grad_(False)` of the module, which sets it for all of its parameters. (2) Load the trained
    weights before freezing them, or leave them thawed.

    Fix safety
    Unsafe: other parameters are trained afterwards.

    When it is wrong
    (1) Modules with an attribute of that name that they look at themselves. (2) Models with random features on purpose:
    where they learn, nothing is said.

    References
    PyTorch documentation, torch.nn.Module.requires_grad_; torch.Tensor.requires_grad.
    """

    code = "UPD508"
    name = "frozen-intent"
    family: ClassVar[Family] = "update"
    summary = "freezing without effect, or layers frozen that were never trained"
    reads = ("parameter", "layer", "loss")
    consequences = ("plateau", "underfit", "lr-low", "output-collapse", "rank-collapse")
    fixes = (Fix("Freeze with requires_grad_(False), and only what was trained before"),)

    steps: int = 3  # steps after which all that is trained has been seen
    share: float = 0.5  # of the numbers in a model's weights, without embeddings
    unlearned: float = 0.7  # loss at the end over the lower of first loss and chance
    flat_steps: int = 200  # steps without a fall, to be told while the run lives

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.backbone = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
                self.head = nn.Linear(64, 10)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.head(self.backbone(x))  # type: ignore[no-any-return]

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = Net()
        model.backbone.requires_grad = False  # type: ignore[assignment]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        for _epoch in range(3):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.backbone = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
                self.head = nn.Linear(64, 10)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.head(self.backbone(x))  # type: ignore[no-any-return]

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        for epoch in range(8):
            if epoch == 4:  # what follows is another task, with a new head
                for parameter in model.backbone.parameters():
                    parameter.requires_grad = False
                model.head = nn.Linear(64, 10)
                optimizer = torch.optim.SGD(model.head.parameters(), lr=0.3)
                y = 9 - y
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        if record.step_count < self.steps:
            return
        found = self._without_effect(record) or self._random(record)
        if found is not None:
            yield found

    def _without_effect(self, record: Record) -> Finding | None:
        """A line that should freeze or thaw a module, and does not."""
        places = {
            record.process.get("main_file"),
            *(one.location.file for one in record.layers.values() if one.location),
        }
        for source in filter(None, map(source_of, sorted(place for place in places if isinstance(place, str)))):
            for misspelt, node, wanted in _settings(source):
                module = _module(source, node, misspelt)
                names = _below(record, module) if module is not None else []
                known = [record.parameters[name] for name in names]
                held = wanted or all(one.optimizer is not None for one in known)
                if known and held and all(one.requires_grad != wanted for one in known) and _runs(source, node):
                    return self._told(source, node, misspelt, wanted, known)
        return None

    def _told(self, source: Source, node: ast.Assign, misspelt: bool, wanted: bool, known: list[Parameter]) -> Finding:
        text = source.line(node.lineno).split("#")[0].strip()
        why = (
            "torch knows no attribute of that name"
            if misspelt
            else "it sets an attribute of the module, not of its parameters"
        )
        state = "keep being trained" if not wanted else "stay frozen"
        numbers = sum(one.size for one in known)
        return self.finding(
            f"`{text}` does nothing, since {why}: its {len(known)} parameters ({numbers} numbers, `{known[0].name}` "
            f"first) {state}; call requires_grad_({wanted}) of the module",
            severity="error", step=self.steps, layer=known[0].layer or known[0].name,
            location=Location(source.file, node.lineno),
            evidence={"parameters": len(known), "numbers": numbers, "line": text},
        )  # fmt: skip

    def _random(self, record: Record) -> Finding | None:
        """Layers that were frozen as they were made."""
        if all(parameter.requires_grad for parameter in record.parameters.values()):
            return None
        state = condition(record)
        if state.verdict == "non-finite" or not fits_poorly(state, self.unlearned):
            return None
        if not record.finished and not (state.verdict == "flat" and state.steps >= self.flat_steps):
            return None
        layers = record.layers
        by_root: dict[str, list[Parameter]] = {}
        for parameter in record.parameters.values():
            layer = layers.get(parameter.layer)
            if layer is not None and layer.order >= 0 and layer.kind != "embedding" and len(parameter.shape) >= 2:
                by_root.setdefault(layer.root, []).append(parameter)
        for weights in by_root.values():
            frozen = [weight for weight in weights if not weight.requires_grad]
            numbers, whole = sum(weight.size for weight in frozen), sum(weight.size for weight in weights)
            # A model of which nothing is trained serves another end: a target network, a fixed loss.
            if len(frozen) == len(weights) or numbers < self.share * whole:
                continue
            if all(is_fresh(record, weight) and not _was_trained(record, weight) for weight in frozen):
                first = layers[frozen[0].layer]
                return self.finding(
                    f"{100 * numbers / whole:.0f} % of the model's weights (`{frozen[0].name}` and {len(frozen) - 1} "
                    "more) are frozen though they were never trained, so most of what the model computes is random, "
                    f"and the loss stays at {state.end:.4g} (it began at {state.start:.4g}); load trained weights "
                    "before freezing them, or leave them thawed",
                    severity="error", step=self.steps, layer=first.name, location=first.location,
                    evidence={"frozen": [weight.name for weight in frozen[:20]], "share": numbers / whole,
                              "start": state.start, "end": state.end},
                )  # fmt: skip
        return None


def _was_trained(record: Record, weight: Parameter) -> bool:
    """Whether a weight had a gradient before it was frozen."""
    return len(record.series("gradient", weight.name)) > 0 or any(weight.name in g.parameters() for g in record.graphs)


@lru_cache(maxsize=16)
def _settings(source: Source) -> tuple[tuple[bool, ast.Assign, bool], ...]:
    """(misspelt, assignment, value) of each line that sets `requires_grad`, or what was meant to be it."""
    return tuple(
        (name != "requires_grad", node, value)
        for name in ("requires_grad", *_MISSPELT)
        for node in source.assignments(name)
        if isinstance(value := getattr(node.value, "value", None), bool)
    )


def _module(source: Source, node: ast.Assign, misspelt: bool) -> list[str] | None:
    """The path of the module (["model", "backbone"]) whose attribute, or whose parameters' attribute, a line sets."""
    target = node.targets[0]
    if not isinstance(target, ast.Attribute):
        return None
    loop = _loop(source, target.value)
    if loop is None:
        return _path(target.value)
    wanted = _OF_PARAMETERS if misspelt else _OF_MODULES
    if isinstance(loop.iter, ast.Call):
        is_method = isinstance(loop.iter.func, ast.Attribute) and called(loop.iter) in wanted and not loop.iter.args
        return _path(loop.iter.func.value) if is_method and isinstance(loop.iter.func, ast.Attribute) else None
    return None


def _loop(source: Source, value: ast.expr) -> ast.For | None:
    """The loop that a variable is bound by, the innermost around it."""
    if not isinstance(value, ast.Name):
        return None
    around = [
        loop
        for loop in source.nodes(ast.For, value.lineno)
        if any(isinstance(name, ast.Name) and name.id == value.id for name in ast.walk(loop.target))
    ]
    return max(around, key=lambda loop: loop.lineno, default=None)


def _path(value: ast.expr) -> list[str] | None:
    """The names of a chain of attributes and numbers: ["model", "features", "0"] of `model.features[0]`."""
    path: list[str] = []
    while not isinstance(value, ast.Name):
        if isinstance(value, ast.Attribute):
            path.append(value.attr)
        elif isinstance(value, ast.Subscript) and isinstance(getattr(value.slice, "value", None), int):
            path.append(str(value.slice.value))  # type: ignore[attr-defined]
        else:
            return None
        value = value.value
    return [value.id, *reversed(path)]


def _below(record: Record, path: list[str]) -> list[str]:
    """The parameters of the module that a path of names leads to; empty if there is none, or more than one."""
    inner = ".".join(path[1:])
    if not inner:
        roots = {layer.root for layer in record.layers.values() if layer.root == path[0]}
        return [one.name for one in record.parameters.values() if _root(record, one) in roots]
    found = [name for name in record.layers if name in (inner, f"{path[0]}.{inner}")]
    found = found or [name for name in record.layers if name.endswith("." + inner)]
    if len(found) != 1:
        return []
    module = found[0]
    return [one.name for one in record.parameters.values() if one.layer == module or one.layer.startswith(module + ".")]


def _root(record: Record, parameter: Parameter) -> str | None:
    layer = record.layers.get(parameter.layer)
    return layer.root if layer is not None else None


@lru_cache(maxsize=64)
def _runs(source: Source, node: ast.stmt) -> bool:
    """Whether a line is surely run: under no condition, and in no function but one that is called or makes a module."""
    line = node.lineno
    kinds: list[type[ast.stmt]] = [ast.If, ast.Try, ast.While, ast.ClassDef]
    around = [one for kind in kinds for one in source.nodes(kind, line)]
    for one in around:
        if isinstance(one, ast.If) and "__name__" in ast.unparse(one.test):
            continue
        if not isinstance(one, ast.ClassDef):
            return False
    functions = source.nodes(ast.FunctionDef, line)
    names = {call_name for call in source.nodes(ast.Call) if (call_name := called(call))}
    classes = source.nodes(ast.ClassDef, line)
    return all(
        function.name in names or (function.name == "__init__" and all(one.name in names for one in classes))
        for function in functions
    )
