"""RNN705: most of what a sequence model reads, or is judged by, is padding."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from wellfit.condition import classes, condition, training_loss
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Layer, Loss, Record
from wellfit.rule import Family, Rule
from wellfit.rules.fitness import settled
from wellfit.rules.memory import learned_nothing, moments, recurrent_layers, time_profiles
from wellfit.source import main_source


class Padding(Rule):
    """Padding counts in the loss as if it were data, or a recurrent layer runs over it to the end.

    What it checks
    Exact zeros in the output of an Embedding are its padding, and so is the one id that fills sequences at their ends
    (or beginnings). (1) `noted` or more of what is embedded is padding, the
    loss is averaged over answers of the same vocabulary, as large a share of them is one and the same, and none is
    ignored; from `share` on it is an error. (2) Half or more is padding, the program pads at the end of sequences
    (pad_sequence), a recurrent layer is given them unpacked, its gradient is largest in the last eighth of time, where
    the padding is, and the run learned nothing.

    Why it hurts
    (1) Padding is easy to guess: the loss becomes small while the words are not learned, and most of the gradient is
    about padding. (2) The state that is looked at has gone through all the padding and forgotten the sequence.

    Cure
    Give cross_entropy the id of the padding as `ignore_index`, or multiply by a mask; pack sequences
    (pack_padded_sequence) or take the state at each sequence's own end; put sequences of about one length into a batch.

    Fix safety
    Not safe: the loss is another one, so curves cannot be compared with those of before.

    When it is wrong
    Where the padding also says that a sequence has ended, some of it has to count.

    References
    PyTorch documentation, nn.Embedding (padding_idx), nn.CrossEntropyLoss (ignore_index), pack_padded_sequence.
    """

    code = "RNN705"
    name = "padding"
    family: ClassVar[Family] = "recurrent"
    summary = "most of what is read, or judged, is padding"
    reads = ("activation", "tokens", "labels", "time_profile", "loss")
    consequences = (
        "forgets",
        "class-imbalance",
        "plateau",
        "output-collapse",
        "rank-collapse",
        "underfit",
        "vanishing",
    )
    fixes = (Fix("Leave padding out of the loss, and pack sequences"),)

    share: float = 0.75  # of all answers; then three of four parts of the gradient are about padding
    noted: float = 0.5  # of all that is embedded, and of all answers
    steps: int = 20  # steps before anything is said
    samples: int = 5  # sampled steps

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn
        from torch.nn.utils.rnn import pad_sequence

        torch.manual_seed(0)
        lengths = torch.cat([torch.randint(3, 8, (630,)), torch.full((10,), 40)])[torch.randperm(640)].tolist()
        texts = [(torch.arange(length) * 7 + int(torch.randint(50, ()))) % 49 + 1 for length in lengths]
        words = pad_sequence([torch.cat([text, torch.zeros(1).long()]) for text in texts], batch_first=True)
        embedding = nn.Embedding(50, 16, padding_idx=0)
        rnn = nn.GRU(16, 32, batch_first=True)
        head = nn.Linear(32, 50)
        optimizer = torch.optim.Adam([*embedding.parameters(), *rnn.parameters(), *head.parameters()], lr=3e-3)
        for batch in words.split(16):
            states, _ = rnn(embedding(batch[:, :-1]))
            loss = nn.functional.cross_entropy(head(states).flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn
        from torch.nn.utils.rnn import pad_sequence

        torch.manual_seed(0)
        lengths = torch.cat([torch.randint(3, 8, (630,)), torch.full((10,), 40)])[torch.randperm(640)].tolist()
        texts = [(torch.arange(length) * 7 + int(torch.randint(50, ()))) % 49 + 1 for length in lengths]
        words = pad_sequence([torch.cat([text, torch.zeros(1).long()]) for text in texts], batch_first=True)
        embedding = nn.Embedding(50, 16, padding_idx=0)
        rnn = nn.GRU(16, 32, batch_first=True)
        head = nn.Linear(32, 50)
        optimizer = torch.optim.Adam([*embedding.parameters(), *rnn.parameters(), *head.parameters()], lr=3e-3)
        for batch in words.split(16):
            states, _ = rnn(embedding(batch[:, :-1]))
            scores = head(states).flatten(0, 1)
            loss = nn.functional.cross_entropy(scores, batch[:, 1:].flatten(), ignore_index=0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        if record.step_count < self.steps:
            return
        padded = [
            (layer, pads) for layer in record.layers.values() if (pads := self._pads(record, layer)) >= self.noted
        ]
        filled = [
            (layer, runs) for layer in record.layers.values() if (runs := self._runs(record, layer)) >= self.noted
        ]
        lost = padded or (filled if filled and _pads_or_shifts(record) else [])
        found = self._in_loss(record, lost) or self._in_state(record, padded)
        if found is not None:
            yield found

    def _pads(self, record: Record, layer: Layer) -> float:
        """The share of padding in what an embedding is given; 0 where it has none."""
        if layer.kind != "embedding":
            return 0.0
        zeros = record.series("activation", layer.name).low_share
        zeros = zeros[np.isfinite(zeros)]
        # All zeros is an embedding that begins with zeros, not padding.
        if len(zeros) < self.samples or bool(np.any(zeros >= 1)):
            return 0.0
        return float(np.median(zeros))

    def _runs(self, record: Record, layer: Layer) -> float:
        """The share of one id at the ends of the sequences that an embedding is given; 0 where it is not known."""
        if layer.kind != "embedding":
            return 0.0
        tokens = record.series("tokens", layer.name)
        if len(tokens) < self.samples:
            return 0.0
        return max(float(np.median(tokens["leading"])), float(np.median(tokens["trailing"])))

    def _in_loss(self, record: Record, padded: list[tuple[Layer, float]]) -> Finding | None:
        loss = training_loss(record)
        if loss is None or loss.reduction != "mean" or loss.attributes.get("weight"):
            return None
        labels = record.series("labels", str(loss.id))
        same = [
            pads
            for layer, pads in padded
            if layer.attributes.get("num_embeddings") == classes(record) and _one_a_word(loss, layer)
        ]
        if not same or len(labels) < self.samples or bool(np.any(labels["ignored"] > 0)):
            return None
        most = float(np.median(labels["batch_most"]))
        answers = min(most, *same)
        # Answers are the same sequence, moved by one: their padding is as large a share.
        if not answers >= self.noted or abs(most - same[0]) > 0.1:
            return None
        return self.finding(
            f"{100 * answers:.0f} % of the answers that the loss is averaged over are padding, which is easy to guess: "
            f"the loss looks small and most of the gradient is about padding; give {loss.function} the padding's id as "
            "ignore_index",
            severity="error" if answers >= self.share else "note", step=0,
            location=_made(record, loss) or loss.location,
            evidence={"padding": same[0], "most_frequent": most, "threshold": self.share},
            sure=settled(record, 10 * self.steps),
        )  # fmt: skip

    def _in_state(self, record: Record, padded: list[tuple[Layer, float]]) -> Finding | None:
        place = _pads_at_the_end(record) if padded else None
        layers = [layer for layer in recurrent_layers(record) if (moments(layer) or 0) >= 8]
        if place is None or not layers:
            return None
        embedding, pads = padded[0]
        for layer in layers:
            profiles = time_profiles(record, layer)
            if layer.order < embedding.order or layer.attributes.get("bidirectional") or len(profiles) < self.samples:
                continue
            late = np.median(profiles[len(profiles) // 2 :], axis=0)
            if not (np.argmax(late) == 7 and late[7] > 2 * np.median(late)):
                continue
            if not learned_nothing(record, condition(record)):
                return None
            return self.finding(
                f"`{layer.name}` runs over padding to the end: {100 * pads:.0f} % of what it reads is padding behind "
                "the sequences, and its last state has forgotten them; pack the sequences (pack_padded_sequence), or "
                "take the state at each one's own end",
                severity="error", step=0, layer=layer.name, location=layer.location,
                evidence={"padding": pads, "padded_at_line": place.line}, sure=settled(record, 10 * self.steps),
            )  # fmt: skip
        return None


def _one_a_word(loss: Loss, layer: Layer) -> bool:
    """Whether there are more answers than sequences, as far as is known."""
    return not layer.input_shape or math.prod(loss.target_shape or (0,)) > layer.input_shape[0]


def _made(record: Record, loss: Loss) -> Location | None:
    """Where the module of the loss is made, which is to be given `ignore_index`: if the program makes one only."""
    source = main_source(record)
    made = source.only_call(["CrossEntropyLoss", "NLLLoss"]) if source is not None else None
    if source is None or made is None or loss.location is None or loss.location.file != source.file:
        return None
    direct = any(call.lineno <= loss.location.line <= (call.end_lineno or 0) for call in source.calls([loss.function]))
    return None if direct else Location(source.file, made.lineno)


def _pads_or_shifts(record: Record) -> bool:
    """Whether the program speaks of padding, or its answers are what it reads, moved by one (`x[:, :-1]`, `x[:, 1:]`).

    In other tasks (to copy what was shown before a long silence) a frequent id has a meaning.
    """
    source = main_source(record)
    if source is None:
        return False
    if any(part in ("pad", "padding", "padded") for name in source.names() for part in name.lower().split("_")):
        return True
    parts = [(ast.unparse(each.value), ast.unparse(each.slice)) for each in source.nodes(ast.Subscript)]
    ends = {value for value, place in parts if place.strip("()").endswith(":-1")}
    return any(value in ends for value, place in parts if place.strip("()").endswith("1:"))


def _pads_at_the_end(record: Record) -> Location | None:
    """The line of the program that fills sequences up at their end, or None."""
    source = main_source(record)
    if source is None or any(source.calls(["flip"])):
        return None  # sequences may be turned round, so that their padding comes first
    for call in source.calls(["pad_sequence"]):
        sides = [word.value for word in call.keywords if word.arg == "padding_side"]
        if len(call.args) < 4 and all(isinstance(side, ast.Constant) and side.value == "right" for side in sides):
            return Location(source.file, call.lineno)
    return None
