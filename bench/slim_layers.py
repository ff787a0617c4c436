"""Single layers before and after a change, timed in turn: `python bench/slim_layers.py [--threads 1] [--seconds 2]`.

Both take turns in one process, so what slows the machine for a while slows both. A turn is one call, which finds the
caches as the other's call has left them, as a layer in a network does; where it says "warm", a turn is twenty calls.
The ratio is of the medians. From 1.2 on a layer is called faster.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import nn

from wellfit.slim import native
from wellfit.slim.changes import Change, Unfit
from wellfit.slim.changes.binary import Binary
from wellfit.slim.changes.cp import Cp
from wellfit.slim.changes.grouped import Grouped
from wellfit.slim.changes.quantised import Quantised
from wellfit.slim.changes.reduced import Reduced
from wellfit.slim.changes.separable import Separable
from wellfit.slim.changes.steps import Steps
from wellfit.slim.changes.svd import Svd
from wellfit.slim.changes.torchao import Torchao
from wellfit.slim.changes.tucker import Tucker
from wellfit.slim.methods.trial import FASTER, Alone

Case = tuple[str, nn.Module, nn.Module, torch.Tensor, torch.Tensor]
WARM = 20


Call = Callable[[], object]


def medians(first: Call, second: Call, seconds: float, turn: int) -> tuple[float, float]:
    """Milliseconds of a call of each; they take turns of so many calls."""
    times: tuple[list[float], list[float]] = ([], [])
    for call in (first, second, first, second):
        call()
    end = time.perf_counter() + seconds
    while len(times[0]) < 5 or time.perf_counter() < end:
        for call, mine in zip((first, second), times):
            start = time.perf_counter()
            for _ in range(turn):
                call()
            mine.append((time.perf_counter() - start) / turn * 1000)
    return statistics.median(times[0]), statistics.median(times[1])


def changed(layer: nn.Module, change: Change) -> nn.Module:
    """A copy with the shapes that the change makes; its random weights are as good as any for the time."""
    other = Alone(copy.deepcopy(layer))
    (change.apply if isinstance(change, (Binary, Quantised)) else change.redo)(other)
    return other.layer


def pairs() -> Iterator[tuple[str, nn.Module, Change, torch.Tensor]]:
    """What, layer, change, input."""
    wide, conv = nn.Linear(2048, 2048), nn.Conv2d(128, 128, 3, padding=1)
    image = torch.randn(8, 128, 28, 28)
    span = (-5.0, 5.0)
    for batch in (1, 32):
        x = torch.randn(batch, 2048)
        yield f"svd, rank 64, linear 2048 x 2048, batch {batch}", wide, Svd("layer", 64), x
        for kind in ("int8", "static", "bf16", "int4", "fp8"):
            yield f"{kind}, linear 2048 x 2048, batch {batch}", wide, Quantised("layer", kind, inputs=span), x
        for kind in ("torchao-int8-weights", "torchao-int8-dynamic"):
            yield f"{kind}, linear 2048 x 2048, batch {batch}", wide, Torchao("layer", kind), x
        yield f"binary weights, linear 2048 x 2048, batch {batch}", wide, Binary("layer"), x
        yield f"binary both, linear 2048 x 2048, batch {batch}", wide, Binary("layer", both=True), x
    for width, batch in itertools.product((256, 512, 1024), (1, 8)):
        lstm, x = nn.LSTM(width, width, batch_first=True), torch.randn(batch, 32, width)
        yield f"int8, lstm {width}, 32 steps, batch {batch}", lstm, Quantised("layer", "int8"), x
    narrow = nn.LSTM(1024, 256, batch_first=True)
    yield "svd, rank 64, lstm 1024 -> 256, 32 steps, batch 8", narrow, Svd("layer", 64), torch.randn(8, 32, 1024)
    for hidden, rank in ((256, 32), (1024, 128)):
        layer, x = nn.LSTM(256, hidden, batch_first=True), torch.randn(8, 32, 256)
        yield f"steps, rank {rank}, lstm 256 -> {hidden}, 32 steps, batch 8", layer, Steps("layer", rank), x
    changes = (
        Tucker("layer", 32, 32),
        Cp("layer", 64),
        Separable("layer"),
        Grouped("layer", 4),
        Reduced("layer", 32),
        Quantised("layer", "static", inputs=span, outputs=span),
        Quantised("layer", "bf16"),
        Binary("layer"),
        Binary("layer", both=True),
    )
    for change in changes:
        strength = {"tucker": ", ranks 1/4", "cp": ", rank 64", "grouped": ", 4 groups", "reduced": ", to 1/4"}
        kind = getattr(change, "kind", "") or change.name + (" both" if getattr(change, "both", False) else "")
        yield f"{kind}{strength.get(change.name, '')}, conv 128 -> 128, 3 x 3, 28 x 28, batch 8", conv, change, image


def cases() -> Iterator[Case]:
    """All of them: what, layer, the other layer, input of each."""
    for what, layer, change, x in pairs():
        try:
            yield what, layer, changed(layer, change), x, x
        except Unfit as error:
            print(f"  {what:70} skipped: {str(error).removeprefix('layer: ')}")
    wide, x = nn.Linear(2048, 2048), torch.randn(32, 2048)
    pruned = copy.deepcopy(wide)
    with torch.no_grad():
        pruned.weight[torch.rand(2048, 2048) < 0.9] = 0
    yield "90 % zeros, linear 2048 x 2048, batch 32", wide, pruned, x, x
    yield "half the width, linear 2048 x 2048, batch 32", wide, nn.Linear(1024, 1024), x, torch.randn(32, 1024)
    conv, small = nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
    x = torch.randn(8, 128, 28, 28)
    yield "half the width, conv 128 -> 128, 3 x 3, 28 x 28, batch 8", conv, small, x, x[:, :64].contiguous()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--seconds", type=float, default=2.0, help="for each case")
    options.add_argument("--only", default="", help="cases that have this in their name")
    given = options.parse_args()
    warnings.simplefilter("ignore")  # of torch, that its quantised tensors will go one day
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    level = "not built" if native.kernel is None else native.kernel.level
    print(f"{platform.machine()}, torch {torch.__version__}, {given.threads} thread(s), one-bit kernel: {level}")
    print(f"  {'':70} {'before':>9} {'after':>9}")
    with torch.no_grad():
        for what, first, second, x, other in cases():
            if given.only not in what:
                continue
            first.eval(), second.eval()
            for turn in (1, WARM) if what.startswith("binary") and "linear" in what else (1,):
                name = what + (", warm" if turn > 1 else "")
                one, two = medians(lambda: first(x), lambda: second(other), given.seconds, turn)  # noqa: B023
                verdict = "faster" if one / two >= FASTER else "no faster"
                print(f"  {name:70} {one:6.3f} ms {two:6.3f} ms {one / two:7.2f}x {verdict}", flush=True)


if __name__ == "__main__":
    main()
