"""RNN701: a recurrent layer forgets what it saw a few moments ago."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix
from wellfit.record import Layer, Record
from wellfit.rule import Family, Rule
from wellfit.rules.fitness import settled
from wellfit.rules.memory import (
    gradient_sizes,
    learned_nothing,
    moments,
    recurrent_layers,
    state_gain,
    state_weights,
    time_profiles,
)
from wellfit.rules.ratios import path_length, update_ratios


class Forgets(Rule):
    """No credit reaches the early moments of a sequence: what the layer saw there cannot be learned from.

    What it checks
    In a run of `steps` steps or more that learned nothing although its weights moved (by `path` of their size, and by
    less than `long_steps` of it in a step, after the first `warm_up`), with sequences of `long` moments or more that
    are judged by their last state, on `samples` samples or more: the gradient of the layer's input falls from part to
    part of time, and that of the first eighth is below `first_to_last` of that of the last; or, where the input takes
    no gradient, the layer's memory is shorter than `memory` of the sequence: an LSTM whose forget gates are open by f
    on average, none of them fully, keeps a state for -1 / ln(f) moments, a plain layer whose weights from state to
    state have the gain g < 1 for -1 / ln(g).

    Why it hurts
    The gradient is a product of as many factors as there are moments. Where they are smaller than 1 nothing of it is
    left after a few of them, so that the model learns from the end of each sequence alone.

    Cure
    Take an LSTM or a GRU; let an LSTM begin with a forget bias of 1 to 3; make the weights from state to state
    orthogonal, or the identity; shorten the sequences, look at more than the last state, or use attention.

    Fix safety
    Another model, or another beginning of it: it has to be trained again.

    When it is wrong
    A run that learns nothing for another reason (labels that say nothing, inputs that were lost) forgets as well. A
    task that needs only the last moments is learned, and then nothing is said.

    References
    Hochreiter and Schmidhuber 1997, "Long short-term memory"; Jozefowicz, Zaremba and Sutskever 2015, "An empirical
    exploration of recurrent network architectures", on the forget bias.
    """

    code = "RNN701"
    name = "forgets"
    family: ClassVar[Family] = "recurrent"
    summary = "a recurrent layer's memory is far shorter than its sequences"
    reads = ("time_profile", "gates", "parameter.rms", "loss")
    consequences = ("plateau", "vanishing", "output-collapse", "rank-collapse", "underfit", "lr-low", "zero-grad-param")
    fixes = (
        Fix("Let the LSTM begin by remembering", override="forget-bias=1.0"),
        Fix("Take an LSTM or a GRU", override="recurrent=lstm"),
    )

    first_to_last: float = 1e-4  # rms of the input's gradient in the first eighth of time over the last
    memory: float = 0.1  # of the sequence, over which a state falls to 1/e
    long: int = 20  # moments
    steps: int = 100  # steps before anything is said
    sure_steps: int = 1000  # steps; long memories are learned late: until then it is told at the end only
    path: float = 0.25  # sum of update ratios; with less the learning rate is the first thing to look at
    long_steps: float = 0.05  # median of rms(update) / rms(weight) after `warm_up`: the learning rate is to blame
    warm_up: int = 10  # steps; small weights move far at first
    samples: int = 5  # sampled steps

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        class Recall(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.memory = nn.RNN(2, 16, batch_first=True)
                self.head = nn.Linear(16, 2)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                states, _ = self.memory(x)
                return self.head(states[:, -1])  # type: ignore[no-any-return]

        torch.manual_seed(0)
        model = Recall()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(200):
            x = torch.randn(32, 50, 2)
            x[:, 0, 0] = torch.randn(32).sign()
            loss = nn.functional.cross_entropy(model(x), (x[:, 0, 0] > 0).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        class Recall(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.memory = nn.RNN(2, 16, batch_first=True)
                self.head = nn.Linear(16, 2)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                states, _ = self.memory(x)
                return self.head(states[:, -1])  # type: ignore[no-any-return]

        torch.manual_seed(0)
        model = Recall()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        # As forgetful, but the answer lies at the end of the sequence.
        for _ in range(200):
            x = torch.randn(32, 50, 2)
            x[:, -1, 0] = torch.randn(32).sign()
            loss = nn.functional.cross_entropy(model(x), (x[:, -1, 0] > 0).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        layers = [layer for layer in recurrent_layers(record) if (moments(layer) or 0) >= self.long]
        if not layers or record.step_count < self.steps:
            return
        state = condition(record)
        if state.verdict not in ("flat", "learning") or not learned_nothing(record, state):
            return
        ratios = update_ratios(record)
        if not path_length(ratios, record.step_count) >= self.path:
            return
        if ratios.typical(self.warm_up) > self.long_steps:
            return  # steps that throw away what was learned hide what could be
        for layer in layers:
            found = self._shown(record, layer)
            if found is not None:
                yield self._told(record, layer, *found)
                return

    def _shown(self, record: Record, layer: Layer) -> tuple[str, float] | None:
        """What shows that the layer forgets, in words, and how much."""
        trained = any(len(gradient_sizes(record, name)) >= self.samples for name in state_weights(layer))
        profiles = time_profiles(record, layer)
        late = np.median(profiles[len(profiles) // 2 :], axis=0) if len(profiles) >= self.samples else None
        if not trained or late is None:
            return None
        if late[5] > 0 and late[6] > 0:
            # The gradient of the input: all parts have some, less and less of it.
            ratio = float(late[0] / late[7])
            if ratio < self.first_to_last and bool(np.all(late[:-1] <= late[1:])):
                return f"the gradient at the first moments is {ratio:.1g} of that at the last", ratio
            return None
        if np.any(late[:7] > 0) or layer.attributes.get("bidirectional"):
            return None
        # Only the last of the layer's states is looked at, and what it was given takes no gradient.
        length = self._memory(record, layer)
        if not length < self.memory * (moments(layer) or 0):
            return None
        return f"it keeps a state for about {length:.2g} of the {moments(layer)} moments of a sequence", length

    def _memory(self, record: Record, layer: Layer) -> float:
        """For how many moments the layer keeps a state; NaN where it cannot be told."""
        keeps = math.nan
        if layer.class_name == "LSTM":
            gates = record.series("gates", layer.name)
            half = len(gates) // 2
            if len(gates) >= self.samples and not np.any(gates["forget_open"][half:] > 0):
                keeps = float(np.median(gates["forget"][half:]))
        elif layer.class_name == "RNN":
            keeps = max((state_gain(record, name) for name in state_weights(layer)), default=math.nan)
        return -1 / math.log(keeps) if 0 < keeps < 1 else math.nan

    def _told(self, record: Record, layer: Layer, shows: str, size: float) -> Finding:
        cure = (
            "let its forget gates begin open (a bias of 1 to 3)"
            if layer.class_name == "LSTM"
            else "take an LSTM or a GRU, or begin with an orthogonal matrix from state to state"
        )
        return self.finding(
            f"`{layer.name}` forgets: {shows}, so nothing can be learned from what came before, and the loss stays at "
            f"that of guessing; {cure}, or shorten the sequences",
            severity="error", layer=layer.name, location=layer.location,
            evidence={"size": size, "moments": moments(layer) or 0, "first_to_last": self.first_to_last},
            fixes=self.fixes if layer.class_name == "LSTM" else self.fixes[1:],
            sure=settled(record, self.sure_steps),
        )  # fmt: skip
