"""INI209: dropout that leaves too little, or that drops the model's answers."""

from __future__ import annotations

from collections.abc import Iterator

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Graph, Node, Record
from wellfit.rule import Rule
from wellfit.rules.dropouts import Drop, drop_of, drops
from wellfit.rules.labels import learns_little
from wellfit.rules.wiring import early_graphs, function_of, is_dropout, is_linear, is_pass, predictions


class DropoutExtreme(Rule):
    """Dropout that drops nearly all values, or the outputs of the last layer.

    What it checks
        The rates of all dropout that acts in training: of modules, and of calls of `F.dropout` in the first steps. A
        rate above `high` is an error if more than `unlearned` of the loss is left (of the evaluation too, where there
        is one), else a note; from `hopeless` on it is always an error. Dropout of a rate of `least` or more
        between the last layer with weights and the loss is an error too, below `heavy` only if that much of the loss
        is left.

    Why it hurts
        With a rate p a share of 1 - p of the values is left, and each of them is multiplied by 1/(1 - p): with p = 0.9
        the next layer sees a tenth of its input, ten times too large, so its gradient is mostly noise. Dropped scores
        say that a class is as likely as not, whatever the sample: the loss cannot fall, and evaluation is another task
        than training.

    Cure
        Take a rate of 0.1 to 0.5: p is the share that is dropped, not the share that is kept as in old TensorFlow. Put
        dropout before the last layer, not behind it.

    Fix safety
        Unsafe: it is another model, to be trained again.

    When it is wrong
        Masked or denoising autoencoders hide most of their input on purpose; if they learn, it is noted only.

    References
        Srivastava et al. 2014, "Dropout", section 7 and appendix A.4 (rates 0.2 for inputs, 0.5 for hidden units).
        UMLAUT and NeuraLint have such a rule.
    """

    code = "INI209"
    name = "dropout-extreme"
    family = "initialisation"
    summary = "dropout rate too high, or dropout behind the last layer"
    reads = ("graph", "loss")
    consequences = (
        "plateau",
        "initial-loss",
        "init-gain",
        "output-collapse",
        "rank-collapse",
        "exploding",
        "diverged",
        "lr-high",
        "lr-low",
        "non-finite-forward",
        "non-finite-grad",
        "dead-units",
        "saturated",
        "dropout-before-bn",
        "bn-gap",
        "underfit",
        "zero-grad-param",
        "val-too-good",
        "class-imbalance",
    )
    fixes = (Fix("Take a dropout rate of 0.5 or less, before the last layer", override="dropout=0.5"),)

    high: float = 0.7  # share dropped; the rates of published models reach 0.65 (AWD-LSTM)
    hopeless: float = 0.9  # share dropped; nobody means to keep a tenth, but many take p for the share that is kept
    least: float = 0.05  # share dropped behind the last layer
    heavy: float = 0.3  # the same, from which on no loss of a classifier can become small
    unlearned: float = 0.4  # share of the lower one of first loss and loss of guessing that is left
    steps: int = 20  # steps

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        keep = 0.9
        model = nn.Sequential(
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Dropout(keep),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Dropout(keep),
            nn.Linear(64, 10),
        )
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

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(64, 10),
        )
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
        behind = self._behind_the_last(record)
        if behind is not None:
            yield self._found_behind(record, behind)
        if record.step_count < self.steps:
            return
        told = (behind.layer or behind.location) if behind is not None else ""
        high = [drop for drop in drops(record) if drop.rate > self.high and (drop.layer or drop.location) != told]
        if high:
            yield self._found_high(record, max(high, key=lambda drop: drop.rate), len(high))

    def _behind_the_last(self, record: Record) -> Drop | None:
        """Dropout that nothing with weights stands behind: it drops what the loss is given."""
        for graph in early_graphs(record):
            for loss in record.losses.values():
                for node in predictions(graph, loss.function) if loss.training else ():
                    dropped = _dropped(graph, node)
                    drop = drop_of(record, dropped) if dropped is not None else None
                    if drop is not None and drop.rate >= self.least:
                        return drop
        return None

    def _found_behind(self, record: Record, drop: Drop) -> Finding:
        heavy = drop.rate >= self.heavy
        return self.finding(
            f"{drop.what} drops {100 * drop.rate:.3g} % of the model's outputs behind its last layer: the loss sees a "
            "0 in place of an answer, which no weight can change, and evaluation sees other outputs than training; put "
            "dropout before the last layer",
            severity="error" if heavy or learns_little(record, self.unlearned) else "note", step=0, layer=drop.layer,
            location=drop.location, evidence={"p": drop.rate, "least": self.least}, sure=heavy or record.finished,
        )  # fmt: skip

    def _found_high(self, record: Record, drop: Drop, count: int) -> Finding:
        state = condition(record)
        little = learns_little(record, self.unlearned)
        poor = little or drop.rate >= self.hopeless
        kept = 1 - drop.rate
        others = f" (and {count - 1} more above {self.high:.2g})" if count > 1 else ""
        left = f"{100 * kept:.2g} % of the values are left, times {1 / kept:.3g}" if kept > 0 else "nothing is left"
        said = "and the model learns little" if little else "though the model learns"
        return self.finding(
            f"{drop.what} drops {100 * drop.rate:.3g} % of its input{others}: {left}, so what comes behind it sees "
            f"mostly noise, {said}; take a rate of 0.1 to 0.5 (p is the share that is dropped, not the one kept)",
            severity="error" if poor else "note", step=0, layer=drop.layer, location=drop.location,
            evidence={"p": drop.rate, "high": self.high, "verdict": state.verdict},
            sure=record.finished or drop.rate >= self.hopeless,
        )  # fmt: skip


def _dropped(graph: Graph, node: Node) -> Node | None:
    """The dropout between a prediction and the layer with weights that made it, if nothing is computed between."""
    found = None
    for _ in range(20):
        if is_linear(node):
            return found
        if is_dropout(node):
            found = found or node
        elif not is_pass(node) and function_of(node) is None:
            return None
        inputs = graph.inputs(node.id)
        if len(inputs) != 1:
            return None
        node = inputs[0]
    return None
