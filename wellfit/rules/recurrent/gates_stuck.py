"""RNN704: the gates of an LSTM stay shut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Layer, Record
from wellfit.rule import Family, Rule
from wellfit.rules.fitness import settled
from wellfit.rules.memory import learned_nothing, recurrent_layers

_SAYS = {
    "input_shut": "input gates are shut: nothing of what it is given gets into its state",
    "forget_shut": "forget gates are shut: nothing of its state lives on to the next moment",
    "output_shut": "output gates are shut: it gives 0 whatever its state is",
}


class GatesStuck(Rule):
    """The gates of an LSTM are shut for whatever it is given, and stay so.

    What it checks
    In a run of `steps` steps or more that learned nothing: the share of units whose input, forget or output gate is
    below 0.05 on average over the batch, at the last moment of the sequences. `share` of them or more are, in nearly
    all of the later half of the samples, of which there are at least `samples`.

    Why it hurts
    A gate that is shut multiplies by 0, and so does its gradient: what is behind it is neither used nor learned, and
    the gate itself learns too slowly to open.

    Cure
    Begin with biases of 0 (1 for the forget gate), weights of the size that torch gives them, and inputs with mean 0
    and a standard deviation of 1.

    Fix safety
    Another beginning of the model: it has to be trained again.

    When it is wrong
    A run that learns nothing for another reason may shut gates to hold the harm down.

    References
    Hochreiter and Schmidhuber 1997, "Long short-term memory"; Gers, Schmidhuber and Cummins 2000, "Learning to forget";
    van der Westhuizen and Lasenby 2018, "The unreasonable effectiveness of the forget gate".
    """

    code = "RNN704"
    name = "gates-stuck"
    family: ClassVar[Family] = "recurrent"
    summary = "the gates of an LSTM are shut for whatever it is given"
    reads = ("gates", "loss")
    consequences = (
        "plateau", "vanishing", "output-collapse", "rank-collapse", "underfit", "lr-low", "forgets",
        "zero-grad-param", "linear-stack",
    )  # fmt: skip
    fixes = (
        Fix("Begin anew, with gate biases of 0", override="init=xavier"),
        Fix("Let the LSTM begin by remembering", override="forget-bias=1.0"),
    )

    share: float = 0.9  # of the units; a new LSTM has none, healthy ones that were trained up to a third
    steps: int = 50  # steps before anything is said
    samples: int = 10  # sampled steps

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        class Rows(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.lstm = nn.LSTM(8, 32, batch_first=True)
                for name, parameter in self.lstm.named_parameters():
                    if "bias" in name:
                        nn.init.constant_(parameter, -4.0)
                self.head = nn.Linear(32, 10)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                out, _ = self.lstm(x)
                return self.head(out[:, -1])  # type: ignore[no-any-return]

        torch.manual_seed(0)
        images, labels = load_digits(return_X_y=True)
        x, y = torch.tensor(images / 16.0).float().view(-1, 8, 8), torch.tensor(labels)
        model = Rows()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _epoch in range(3):
            for batch in torch.randperm(1400).split(50):
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        class Rows(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.lstm = nn.LSTM(8, 32, batch_first=True)
                for name, parameter in self.lstm.named_parameters():
                    if "bias" in name:
                        nn.init.zeros_(parameter)
                self.head = nn.Linear(32, 10)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                out, _ = self.lstm(x)
                return self.head(out[:, -1])  # type: ignore[no-any-return]

        torch.manual_seed(0)
        images, labels = load_digits(return_X_y=True)
        x, y = torch.tensor(images / 16.0).float().view(-1, 8, 8), torch.tensor(labels)
        model = Rows()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _epoch in range(3):
            for batch in torch.randperm(1400).split(50):
                loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        if record.step_count < self.steps:
            return
        stuck = [(layer, *found) for layer in recurrent_layers(record) if (found := self._stuck(record, layer))]
        if not stuck or not learned_nothing(record, condition(record)):
            return
        layer, gate, share = stuck[0]
        yield self.finding(
            f"`{layer.name}`: {100 * share:.0f} % of the {_SAYS[gate]}, and no gradient gets through to open them; "
            "begin with gate biases of 0 (forget gates: 1), weights of usual size and normalised inputs",
            severity="error", step=0, layer=layer.name, location=layer.location,
            evidence={"gate": gate.partition("_")[0], "share": share, "threshold": self.share},
            sure=settled(record, 4 * self.steps),
        )  # fmt: skip

    def _stuck(self, record: Record, layer: Layer) -> tuple[str, float] | None:
        """Which gates are shut, and the share of them."""
        gates = record.series("gates", layer.name)
        for gate in _SAYS:
            share = gates[gate][len(gates) // 2 :]
            share = share[np.isfinite(share)]
            if len(share) >= self.samples and float(np.quantile(share, 0.1)) >= self.share:
                return gate, float(np.median(share))
        return None
