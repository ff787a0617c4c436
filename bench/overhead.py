"""What watching costs, side by side in one process: blocks of bare and watched training steps in turn.

    python bench/overhead.py [--seconds 10] [--every 0] [mlp cnn lstm gpt]

Printed: the median ratio of CPU time of a watched block to the bare block beside it, with its quartiles. `--every 0`
lets the governor choose which steps are watched (the default of `wellfit run`); 1 looks at every step.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import nn

from wellfit.bench import attach


def digits(side: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32) / 16
    if side != 8:
        x = nn.functional.interpolate(x.view(-1, 1, 8, 8), size=(side, side), mode="bilinear")
    y = torch.tensor(labels)
    return [(x[i : i + 64], y[i : i + 64]) for i in range(0, 1024, 64)]


def mlp() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    layers = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(*layers), digits(8)


def cnn() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    layers = [
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    ]  # fmt: skip
    return nn.Sequential(*layers), digits(28)


class Sequence(nn.Module):
    """An LSTM or a small transformer over tokens."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(64, width), body, nn.Linear(width, 64)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out = self.body(self.embed(tokens))
        return self.head(out[0] if isinstance(out, tuple) else out).transpose(1, 2)


def tokens() -> list[tuple[torch.Tensor, torch.Tensor]]:
    data = [torch.randint(0, 64, (16, 65)) for _ in range(8)]
    return [(d[:, :-1], d[:, 1:]) for d in data]


def lstm() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    return Sequence(nn.LSTM(128, 128, num_layers=2, batch_first=True), 128), tokens()


def gpt() -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True, norm_first=True)
    return Sequence(nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), 128), tokens()


WORKLOADS: dict[str, Callable[[], tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]]] = {
    f.__name__: f for f in (mlp, cnn, lstm, gpt)
}


def trainer(build: Callable[[], tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]]):
    torch.manual_seed(0)
    model, batches = build()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    loss_function, endless = nn.CrossEntropyLoss(), itertools.cycle(batches)

    def steps(count: int) -> float:
        begin = time.process_time()
        for _ in range(count):
            x, y = next(endless)
            optimizer.zero_grad()
            loss_function(model(x), y).backward()
            optimizer.step()
        return time.process_time() - begin

    return model, optimizer, steps


def measure(name: str, seconds: float, every: int) -> None:
    _, _, bare = trainer(WORKLOADS[name])
    model, optimizer, watched = trainer(WORKLOADS[name])
    bare(3)
    block = max(20, round(seconds / 10 / max(bare(10) / 10, 1e-6)))
    ratios = []
    for i in range(5):
        detach_later = i % 2
        if detach_later:
            first = bare(block)
        detach = attach(model, optimizer, every)
        second = watched(block)
        detach()
        if not detach_later:
            first = bare(block)
        ratios.append(second / first)
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{name:6} {block:6} steps a block   ratio {middle:.3f}   [{low:.3f}, {high:.3f}]", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", nargs="*", default=list(WORKLOADS))
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--every", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.workload:
        measure(name, args.seconds, args.every)


if __name__ == "__main__":
    main()
