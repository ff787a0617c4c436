"""NUM003: GradScaler leaves out step after step."""

from __future__ import annotations

from collections.abc import Iterator

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Record
from wellfit.rule import Rule
from wellfit.rules.fitness import fits_poorly
from wellfit.rules.layering import first_backward
from wellfit.source import main_source


class ScalerThrash(Rule):
    """GradScaler keeps meeting gradients that are not finite, and leaves their steps out.

    What it checks
        The steps that GradScaler left out. At its start it may leave out up to 20 until its scale fits, and one now and
        then when the scale is raised. Ill is more than `fewest` of them that are more than `share` of all steps tried.
        It is an error if they are more than `most` of all, or if the loss stays above `unlearned` of where it began,
        else a note.

    Why it hurts
        The batch of a step that is left out is wasted, and each halves the scale, which only 2000 good steps in a row
        double again: it sinks until gradients are too small for float16, and nothing is learned any more.

    Cure
        Find what is not finite or too large: clamp or standardise the inputs, put the layers whose outputs come near
        65504 (or the loss) into float32, lower the learning rate. Or use bfloat16, which needs no scaler. Leave
        growth_interval near its default of 2000.

    Fix safety
        bfloat16 means the same, with fewer digits.

    When it is wrong
        A few hundred steps with a scaler that begins far too high, and learns all the same: a note.

    References
        Micikevicius et al.: Mixed precision training (2018); PyTorch documentation, torch.amp.GradScaler.
    """

    code = "NUM003"
    name = "scaler-thrash"
    family = "numerics"
    summary = "GradScaler leaves out many steps"
    reads = ("event.scaler", "loss")
    consequences = ("fp16-underflow", "lr-low", "plateau", "zero-grad-param")
    fixes = (
        Fix("Compute in bfloat16", override="precision=bfloat16"),
        Fix("Divide the learning rate by 3", override="lr=scale:0.33", safe=True),
    )

    fewest: int = 25  # steps left out; the scale of 65536 is below 1 after 17
    share: float = 0.05  # of all steps tried
    most: float = 0.3  # share from which on too much is wasted, however the loss fares
    unlearned: float = 0.7  # loss at the end over the lower of first loss and chance
    sure_left_out: int = 100  # steps left out, to be told while the run lives; no start takes so many

    @staticmethod
    def sick() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", growth_interval=1)
        for _epoch in range(4):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.float16):
                    loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()

    @staticmethod
    def healthy() -> None:
        import torch
        from sklearn.datasets import load_digits
        from torch import nn

        torch.manual_seed(0)
        x, y = load_digits(return_X_y=True)
        x, y = torch.tensor(x / 16.0).float(), torch.tensor(y)
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
        for _epoch in range(4):
            for batch in torch.randperm(1400).split(50):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.float16):
                    loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()

    def check(self, record: Record) -> Iterator[Finding]:
        events = record.events("scaler")
        left_out = max((event["count"] for event in events), default=0)  # at least: not every one is written
        if left_out <= self.fewest:
            return
        tried = left_out + record.step_count
        share = left_out / tried
        if share <= self.share:
            return
        state = condition(record)
        wasted = share > self.most
        poor = wasted or fits_poorly(state, self.unlearned)
        yield self.finding(
            f"GradScaler left out at least {left_out} of {tried} steps ({100 * share:.0f} %), since gradients were not "
            "finite: these batches are wasted, and each of them halves the scale, until gradients are too small for "
            "float16; find what overflows (inputs, loss, or a layer that comes near 65504) or compute in bfloat16, and "
            "leave growth_interval at 2000",
            severity="error" if poor else "note",
            step=next(event["step"] for event in events if event["count"] > self.fewest),
            location=_made(record) or first_backward(record),
            evidence={"left_out": left_out, "tried": tried, "share": share, "loss": state.verdict},
            sure=record.finished or (wasted and left_out > self.sure_left_out),
        )


def _made(record: Record) -> Location | None:
    """The line that makes the scaler."""
    source = main_source(record)
    if source is None:
        return None
    call = next(source.calls(["GradScaler"]), None)
    return Location(source.file, call.lineno) if call is not None else None
