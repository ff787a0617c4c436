"""INI208: parameters that training uses and no optimizer holds."""

from __future__ import annotations

from collections.abc import Iterator

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Layer, Optimizer, Parameter, Record
from wellfit.rule import Rule
from wellfit.rules.fitness import settled
from wellfit.rules.fresh import all_new, is_fresh
from wellfit.source import main_source


class NotInOptimizer(Rule):
    """Trainable parameters of the model that no optimizer ever changes.

    What it checks
        Which parameters the loss reaches, require a gradient, and belong to no optimizer after `steps_seen` steps:
        layers kept in a plain Python list, an encoder forgotten in the optimizer's list, an optimizer that holds
        nothing but frozen parameters.

    Why it hurts
        These layers stay as random as they were made; the rest of the model works around them.

    Cure
        Keep layers in `nn.ModuleList` (or as attributes), and give the optimizer the parameters of the whole model.

    Fix safety
        Unsafe: more parameters are trained afterwards.

    When it is wrong
        Layers that are random on purpose (set `requires_grad = False` to say so). Weights that were loaded, and so no
        longer look freshly made (uniform up to 1/sqrt(fan-in) within `fresh_tolerance`, or all of them as He, Glorot or
        GPT's authors draw weights), are only a note.

    References
        PyTorch documentation, nn.ModuleList; TrainCheck (2025).
    """

    code = "INI208"
    name = "not-in-optimizer"
    family = "initialisation"
    summary = "parameters that the loss reaches, but no optimizer holds"
    reads = ("graph", "optimizer", "parameter")
    consequences = (
        "plateau",
        "never-updated",
        "zero-grad-param",
        "lr-low",
        "output-collapse",
        "rank-collapse",
        "saturated",
        "dead-units",
        "detached",
        "forgets",
        "label-noise",
    )
    fixes = (Fix("Register the layers and give the optimizer all parameters of the model"),)

    steps_seen: int = 3  # steps; all optimizers of a loop have stepped by then
    steps_sure: int = 200  # steps; later an optimizer for these is not to be expected
    fresh_tolerance: float = 0.1  # relative; the default initialiser gives rms = 1/sqrt(3 fan-in)

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.hidden = [nn.Linear(16, 16) for _ in range(3)]
                self.head = nn.Linear(16, 2)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                for layer in self.hidden:
                    x = torch.relu(layer(x))
                return self.head(x)  # type: ignore[no-any-return]

        torch.manual_seed(0)
        x, y = torch.randn(64, 16), torch.randint(0, 2, (64,))
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(50):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.hidden = nn.ModuleList([nn.Linear(16, 16) for _ in range(3)])
                self.head = nn.Linear(16, 2)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                for layer in self.hidden:
                    x = torch.relu(layer(x))
                return self.head(x)  # type: ignore[no-any-return]

        torch.manual_seed(0)
        x, y = torch.randn(64, 16), torch.randint(0, 2, (64,))
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(50):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        optimizers = list(record.optimizers.values())
        if not optimizers or record.step_count < self.steps_seen or not record.graphs:
            return
        held = {name for optimizer in optimizers for name in optimizer.parameters}
        if not held:  # built on other objects altogether: another illness
            return
        reached = set().union(*(graph.parameters() for graph in record.graphs))
        free = [
            parameter
            for name, parameter in record.parameters.items()
            if name in reached and parameter.requires_grad and parameter.optimizer is None and name not in held
        ]
        frozen = self._all_frozen(record, optimizers, held)
        if frozen is not None:
            yield frozen
            return
        weights = [parameter for parameter in free if len(parameter.shape) >= 2]
        strays = [p for p in weights if (layer := record.layers.get(p.layer)) is not None and not layer.registered]
        if strays:
            yield self._unregistered(record, free, strays)
        rest = [parameter for parameter in free if parameter not in strays and not self._stray(record, parameter)]
        if rest:
            yield self._forgotten(record, optimizers, rest)

    def _stray(self, record: Record, parameter: Parameter) -> bool:
        layer = record.layers.get(parameter.layer)
        return layer is not None and not layer.registered

    def _all_frozen(self, record: Record, optimizers: list[Optimizer], held: set[str]) -> Finding | None:
        """The optimizers hold only parameters that take no gradient."""
        known = [record.parameters[name] for name in held if name in record.parameters]
        unknown = sum(optimizer.unknown_parameters for optimizer in optimizers)
        if not known or unknown or any(parameter.requires_grad for parameter in known):
            return None
        where = _freezing_line(record) or optimizers[0].location
        return self.finding(
            f"all {len(known)} parameters that the optimizer holds have requires_grad = False: nothing of the model is "
            "trained; leave them thawed, or give the optimizer parameters that are",
            severity="error", step=self.steps_seen, layer=known[0].name, location=where,
            evidence={"held": len(known), "trainable": 0}, sure=settled(record, self.steps_sure),
        )  # fmt: skip

    def _unregistered(self, record: Record, free: list[Parameter], strays: list[Parameter]) -> Finding:
        layers = list(dict.fromkeys(parameter.layer for parameter in strays))
        first: Layer = record.layers[layers[0]]
        count = sum(parameter.size for parameter in free if parameter.layer in layers)
        many = f"{len(layers)} layers are" if len(layers) > 1 else f"the layer `{layers[0]}` is"
        return self.finding(
            f"{many} called in training but not registered in any module (kept in a plain list or made elsewhere): "
            f"no optimizer holds their {count} parameters, so they stay random; keep them in nn.ModuleList",
            severity="error", step=self.steps_seen, layer=layers[0], location=first.location,
            evidence={"layers": layers[:10], "parameters": count}, sure=settled(record, self.steps_seen + 1),
        )  # fmt: skip

    def _forgotten(self, record: Record, optimizers: list[Optimizer], free: list[Parameter]) -> Finding:
        weights = [parameter for parameter in free if len(parameter.shape) >= 2]
        fresh = [parameter for parameter in weights if is_fresh(record, parameter, self.fresh_tolerance)]
        if all_new(record, weights):
            fresh = weights
        flat = condition(record).verdict in ("flat", "diverging")
        certain = bool(fresh) or (bool(weights) and flat)
        named = fresh or weights or free
        layers = list(dict.fromkeys(parameter.layer for parameter in named))
        named = [*named, *(one for one in free if one.layer in layers and one not in named)]
        count = sum(parameter.size for parameter in named)
        state = "freshly made" if fresh else "trainable"
        return self.finding(
            f"no optimizer holds `{named[0].name}`"
            + (f" and {len(named) - 1} more" if len(named) > 1 else "")
            + f" ({count} {state} parameters in {len(layers)} layers), though the loss reaches them: they never "
            "change; add them to the optimizer, or set requires_grad = False to say that this is meant",
            severity="error" if certain else "note", step=self.steps_seen, layer=layers[0],
            location=_to_blame(optimizers).location or named[0].location,
            evidence={"layers": layers[:10], "parameters": len(named), "fresh": len(fresh)},
            sure=settled(record, self.steps_sure),
        )  # fmt: skip


def _to_blame(optimizers: list[Optimizer]) -> Optimizer:
    """The optimizer that holds only what one before it holds already, as where a name was copied; else the first."""
    held: set[str] = set()
    for optimizer in optimizers:
        if optimizer.parameters and held.issuperset(optimizer.parameters):
            return optimizer
        held.update(optimizer.parameters)
    return optimizers[0]


def _freezing_line(record: Record) -> Location | None:
    """The last line of the program that sets requires_grad to False."""
    source = main_source(record)
    if source is None:
        return None
    lines = [node.lineno for node in source.assignments("requires_grad") if getattr(node.value, "value", None) is False]
    lines += [
        call.lineno
        for call in source.calls(["requires_grad_"])
        if call.args and getattr(call.args[0], "value", None) is False
    ]
    return Location(source.file, max(lines)) if lines else None
