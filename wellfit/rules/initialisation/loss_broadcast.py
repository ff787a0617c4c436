"""INI205: prediction and target of a loss have shapes that only broadcasting makes fit."""

from __future__ import annotations

from collections.abc import Iterator

from wellfit.finding import Finding, Fix, Location
from wellfit.record import Graph, Node, Record
from wellfit.rule import Rule
from wellfit.rules import wiring

_ELEMENTWISE = ("Sub", "Rsub", "Mul", "Div", "Add", "Pow", "Maximum", "Minimum")
_LOSSES = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "kl_div", "soft_margin_loss")


class LossBroadcast(Rule):
    """Each prediction is compared with every target of the batch.

    What it checks
        The shapes of prediction and target at the loss call, and of the operands of the arithmetic that makes a loss
        by hand: (N, 1) against (N) broadcasts to (N, N). Batches of fewer than `smallest_batch` are not judged.

    Why it hurts
        N x N differences are averaged instead of N, so the best answer to every input is the mean of the targets: the
        loss falls to their variance and stays there. torch warns in mse_loss only.

    Cure
        Bring both to the same shape: `prediction.squeeze(1)` or `target.unsqueeze(1)`.

    Fix safety
        Unsafe: the loss means something else afterwards (what was meant from the start).

    When it is wrong
        When all pairs are compared on purpose; pairs made with unsqueeze or `None` from the prediction itself are
        left alone.

    References
        PyTorch issue 16045; the warning of torch.nn.functional.mse_loss.
    """

    code = "INI205"
    name = "loss-broadcast"
    family = "initialisation"
    summary = "prediction (N, 1) and target (N) broadcast to (N, N) in the loss"
    reads = ("loss", "graph")
    consequences = ("plateau", "output-collapse", "rank-collapse", "lr-low", "initial-loss", "vanishing", "forgets")
    fixes = (Fix("Give prediction and target the same shape"),)

    smallest_batch: int = 2  # samples; with one sample nothing is broadcast

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(128, 4)
        y = x[:, 0] - 2 * x[:, 1]
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(128, 4)
        y = x[:, 0] - 2 * x[:, 1]
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            loss = ((model(x).squeeze(1) - y) ** 2).mean()
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        lines = set()
        for loss in record.losses.values():
            first, second = loss.prediction_shape, loss.target_shape
            if not loss.training or loss.function not in _LOSSES or first is None or second is None:
                continue
            if self._broadcasts(first, second) and loss.location not in lines:
                lines.add(loss.location)
                yield self._found(loss.function, first, second, loss.location)
        for graph in wiring.early_graphs(record):
            for node in wiring.head_region(graph):
                if node.location not in lines and self._by_hand(graph, node):
                    lines.add(node.location)
                    yield self._found(node.function or node.op, node.shapes[0], node.shapes[1], node.location)

    def _broadcasts(self, first: tuple[int, ...], second: tuple[int, ...]) -> bool:
        """Whether (N, 1) meets (M): the result has more elements than either."""
        long, short = (first, second) if len(first) >= len(second) else (second, first)
        return (
            len(long) == len(short) + 1 >= 2
            and long[-1] == 1
            and long[0] == short[0] >= self.smallest_batch
            and short[-1] > 1
            and long[1:-1] == short[1:]
        )

    def _by_hand(self, graph: Graph, node: Node) -> bool:
        if not node.op.startswith(_ELEMENTWISE) or len(node.shapes) != 2 or not self._broadcasts(*node.shapes):
            return False
        inputs = graph.inputs(node.id)
        # Two operands with gradient are a comparison of the model with itself, and an unsqueeze is on purpose.
        return len(inputs) == 1 and not inputs[0].op.startswith(("Unsqueeze", "Index"))

    def _found(self, function: str, first: tuple[int, ...], second: tuple[int, ...], where: Location | None) -> Finding:
        return self.finding(
            f"{function} is given {_shape(first)} and {_shape(second)}, which broadcast to all pairs of samples: every "
            "prediction is drawn to the mean of all targets; squeeze the one or unsqueeze the other",
            severity="error", step=0, location=where,
            evidence={"first": _shape(first), "second": _shape(second), "smallest_batch": self.smallest_batch},
        )  # fmt: skip


def _shape(lengths: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, lengths))}{',' if len(lengths) == 1 else ''})"
