"""NRM804: dropout feeds batch norm."""

from __future__ import annotations

from collections.abc import Iterator

from wellfit.finding import Finding, Fix
from wellfit.record import Graph, Layer, Node, Record
from wellfit.rule import Rule
from wellfit.rules.batch_norms import batch_norms
from wellfit.rules.dropouts import Drop, drop_of
from wellfit.rules.labels import learns_little
from wellfit.rules.wiring import early_graphs, function_of, is_dropout, is_norm, is_pass


class DropoutBeforeBn(Rule):
    """Batch norm normalises the output of dropout, whose variance is another one in evaluation.

    What it checks
        Dropout of a rate of `least` or more whose output goes into a batch norm in train mode, with nothing but an
        activation function between. It is an error if more than `unlearned` of the loss is left, in evaluation too
        where there is one; else a note.

    Why it hurts
        Dropout multiplies what it keeps by 1/(1 - p): the mean stays, the variance grows. Batch norm learns that
        variance and divides by it in evaluation too, where nothing is dropped and the variance is smaller. So all that
        comes behind is smaller in evaluation than it ever was in training, the more so the more such pairs there are.

    Cure
        Put dropout behind batch norm and activation, or behind the last batch norm of the model, or leave one of the
        two out.

    Fix safety
        Unsafe: another model, to be trained again.

    When it is wrong
        Low rates do little harm: they are not told. A model that learns all the same gets a note.

    References
        Li, Chen, Hu, Yang 2019, "Understanding the disharmony between dropout and batch normalization by variance
        shift". NeuraLint has a rule on the order of the two.
    """

    code = "NRM804"
    name = "dropout-before-bn"
    family = "normalisation"
    summary = "batch norm learns statistics that dropout distorts"
    reads = ("graph", "norm", "loss")
    consequences = ("bn-gap", "plateau", "underfit")
    fixes = (Fix("Put dropout behind batch norm"),)

    least: float = 0.5  # share dropped; published models with such a pair use 0.3 to 0.4 and do well
    unlearned: float = 0.4  # share of the lower one of first loss and loss of guessing that is left
    steps: int = 50  # steps before the loss is judged

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        layers = []
        for _ in range(3):
            layers += [nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.7), nn.BatchNorm1d(64)]
        model = nn.Sequential(*layers, nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _epoch in range(5):
            model.train()
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                print("validation", nn.functional.cross_entropy(model(x[1400:]), y[1400:]).item())

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        layers = []
        for _ in range(3):
            layers += [nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(64, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _epoch in range(5):
            model.train()
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                print("validation", nn.functional.cross_entropy(model(x[1400:]), y[1400:]).item())

    def check(self, record: Record) -> Iterator[Finding]:
        training = {layer.name: layer for layer, _ in batch_norms(record)}
        if not training or record.step_count < self.steps:
            return
        pairs: dict[str, tuple[Layer, Drop]] = {}
        for graph in early_graphs(record):
            for node in graph.nodes:
                norm = training.get(node.layer or "") if is_norm(node) else None
                dropped = _dropout_below(graph, node) if norm is not None else None
                drop = drop_of(record, dropped) if dropped is not None else None
                if norm is not None and drop is not None and drop.rate >= self.least:
                    pairs[norm.name] = (norm, drop)
        if not pairs:
            return
        poor = learns_little(record, self.unlearned)
        norm, drop = min(pairs.values(), key=lambda pair: pair[0].order)
        yield self.finding(
            f"{drop.what} drops {100 * drop.rate:.3g} % of what goes into batch norm `{norm.name}`"
            f"{f' (and so in {len(pairs) - 1} more)' if len(pairs) > 1 else ''}: it learns a variance that evaluation, "
            f"where nothing is dropped, does not have{', and the model learns little' if poor else ''}; put dropout "
            "behind batch norm and activation",
            severity="error" if poor else "note", step=0, layer=norm.name, location=drop.location or norm.location,
            evidence={"p": drop.rate, "pairs": len(pairs), "least": self.least}, sure=record.finished,
        )  # fmt: skip


def _dropout_below(graph: Graph, norm: Node) -> Node | None:
    """The dropout that a norm is fed by, if nothing but activations and changes of shape are between."""
    inputs = graph.inputs(norm.id)
    node = inputs[0] if inputs else None
    for _ in range(20):
        if node is None or is_dropout(node):
            return node
        inputs = graph.inputs(node.id)
        if len(inputs) != 1 or not (is_pass(node) or function_of(node) is not None):
            return None
        node = inputs[0]
    return None
