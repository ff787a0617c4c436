"""Layers that are part of the model, and that forward never calls."""

from __future__ import annotations

from collections.abc import Iterator

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Layer, Record
from wellfit.rule import Rule
from wellfit.rules.leaf_losses import without_gradient


class UnusedModule(Rule):
    """Layers that were made and given to the optimizer, but that no forward pass ever calls.

    What it checks
        Layers with parameters that were not called in `steps` steps, although other layers of the same model were:
        an optimizer holds all of their parameters, no graph reaches them, and they have no gradient when it steps. It
        is an error if the run is not doing its job (loss flat, diverging, or at the level of guessing), else a note.

    Why it hurts
        The model is another one than was written: what these layers should have computed is missing.

    Cure
        Call the layers in `forward`, or take them out of the model.

    Fix safety
        Unsafe: with the layers it is another model.

    When it is wrong
        Models that come with more than is used (the pooler of a BERT, heads for other tasks) and learn get a note; so
        do layers that are called in a later phase only.

    References
        PyTorch documentation, DistributedDataParallel, find_unused_parameters.
    """

    code = "FWD307"
    name = "unused-module"
    family = "forward"
    summary = "layers of the model that forward never calls"
    reads = ("layer", "graph", "activation", "event.no-gradient", "loss")
    consequences = ("plateau", "underfit", "linear-stack", "output-collapse", "rank-collapse", "lr-low")
    fixes = (Fix("Call the layers in forward, or take them out of the model"),)

    steps: int = 50  # steps without a call; some models call a part of their layers in turn

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
                self.head = nn.Linear(2, 2)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.head(x)  # type: ignore[no-any-return]

        torch.manual_seed(0)
        x = torch.randn(512, 2)
        y = (x[:, 0] * x[:, 1] > 0).long()
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(150):
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
                self.body = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
                self.head = nn.Linear(2, 2)
                self.tied = nn.Linear(2, 2)
                self.tied.weight = self.head.weight
                self.scale = nn.Linear(2, 2, bias=False)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = nn.functional.linear(x, self.scale.weight)  # a layer whose weight is used, and that is not called
                return self.head(x + self.body(x))  # type: ignore[no-any-return]

        torch.manual_seed(0)
        x = torch.randn(512, 2)
        y = (x[:, 0] * x[:, 1] > 0).long()
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(150):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        if record.step_count < self.steps or not record.graphs:
            return
        missing = without_gradient(record)
        reached = set().union(*(graph.parameters() for graph in record.graphs))
        layers = record.layers
        called = {layer.root for layer in layers.values() if layer.order >= 0 and reached & set(layer.parameters)}
        unused = [
            layer
            for layer in layers.values()
            if layer.order < 0 and layer.root in called and self._is_idle(record, layer, missing, reached)
        ]
        if not unused:
            return
        state = condition(record)
        first = unused[0]
        count = sum(record.parameters[name].size for layer in unused for name in layer.parameters)
        many = f"`{first.name}` and {len(unused) - 1} more layers were" if len(unused) > 1 else f"`{first.name}` was"
        yield self.finding(
            f"{many} made but never called in {record.step_count} steps: {count} parameters that the optimizer holds "
            "have no part in what the model computes; call them in forward, or take them out of the model",
            severity="error" if state.ill and state.verdict != "non-finite" else "note",
            step=self.steps,
            layer=first.name,
            location=first.location,
            evidence={"layers": [layer.name for layer in unused[:20]], "parameters": count, "loss": state.verdict},
            sure=record.finished,
        )

    def _is_idle(self, record: Record, layer: Layer, missing: set[str], reached: set[str]) -> bool:
        """Whether nothing uses its parameters: not called, they may be shared, or given to a function."""
        known = [record.parameters.get(name) for name in layer.parameters]
        # A program that makes model after model declares the same names anew, before they are called.
        root = record.layers.get(layer.root)
        ran = len(record.series("activation", layer.name)) > 0 or (root is not None and root.order < 0)
        return (not ran and bool(known)) and all(
            parameter is not None
            and parameter.requires_grad
            and parameter.optimizer is not None
            and parameter.name in missing
            and parameter.name not in reached
            for parameter in known
        )
