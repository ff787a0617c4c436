"""DAT102: NaN or infinity comes in with the data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wellfit.condition import condition
from wellfit.finding import Finding, Fix, Location
from wellfit.record import Record, Series
from wellfit.rule import Rule
from wellfit.rules.layering import first_input
from wellfit.source import input_origin, target_origin


class NonFiniteInput(Rule):
    """The data themselves hold NaN or infinite numbers.

    What it checks
        The inputs of the model that is called first, and the targets of the training loss: NaN or infinity in a
        sampled batch while all losses before it were finite; or the first NaN of the run was traced to an input, from
        the loss or from the scores that a sampler or distribution refused.

    Why it hurts
        One NaN in a batch makes the loss NaN, and with it every gradient: a single step spoils all weights for good.

    Cure
        Look for missing values (`torch.isnan(x).any()`), divisions by a standard deviation of 0 and logarithms of 0
        where the data are made; drop or impute these rows.

    Fix safety
        Unsafe: the data change.

    When it is wrong
        Masks of -inf given to a model are meant: an infinite input counts only if the loss is not finite.

    References
        UMLAUT (2021) has such a check.
    """

    code = "DAT102"
    name = "non-finite-input"
    family = "data"
    summary = "NaN or infinity comes in with the data"
    reads = ("input", "target", "loss")
    consequences = (
        "non-finite-forward",
        "non-finite-grad",
        "diverged",
        "plateau",
        "input-scale",
        "dead-units",
        "lr-high",
        "label-range",
        "exploding",
        "zero-grad-param",
        "scaler-thrash",
    )
    fixes = (Fix("Drop or impute the rows with missing values"),)

    slack: int = 0  # steps by which a bad batch may come after the first bad loss and still be its cause

    @staticmethod
    def sick() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(128, 4)
        y = x[:, :1] * 2
        x[::50, 2] = float("nan")
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(30):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()

    @staticmethod
    def healthy() -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        x = torch.randn(128, 4)
        y = x[:, :1] * 2
        x[::50, 2] = float("nan")
        x = torch.nan_to_num(x)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(30):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()

    def check(self, record: Record) -> Iterator[Finding]:
        values = record.loss()
        bad = np.flatnonzero(~np.isfinite(values.value))
        if not len(bad):
            yield from self._traced(record, record.step_count, died=True)
            return
        first_bad = int(values.step[bad[0]])
        found = first_input(record)
        if found is not None:
            root, argument, series = found
            at = self._first(series)
            if at is not None and at <= first_bad + self.slack:
                where, _ = input_origin(record, root, argument)
                yield self._found(record, f"the input of `{root}`", root, at, where)
                return
        for loss in record.losses.values():
            at = self._first(record.series("target", str(loss.id))) if loss.training else None
            if at is not None and at <= first_bad + self.slack:
                where, _ = target_origin(loss.location)
                yield self._found(record, f"the target of {loss.function}", None, at, where or loss.location)
                return
        yield from self._traced(record, first_bad)

    def _first(self, series: Series) -> int | None:
        """The first sampled step whose numbers are not all finite."""
        bad = np.flatnonzero(~np.isfinite(series.amax) | ~np.isfinite(series.mean))
        return int(series.step[bad[0]]) if len(bad) else None

    def _traced(self, record: Record, first_bad: int, died: bool = False) -> Iterator[Finding]:
        """The batch was not sampled, but the walk back from the first bad loss ended at data; or (`died`) that from
        the numbers which an exception refused."""
        for event in record.events("non-finite"):
            if event["where"] != "input" or event["step"] > first_bad or event["died"] != died:
                continue
            found = first_input(record)
            layers = [layer for layer in record.layers.values() if layer.order >= 0 and layer.kind != "container"]
            if found is None or not layers or event["layer"] not in (layers[0].name, found[0]):
                continue
            where, _ = input_origin(record, found[0], found[1])
            what = f"the input of `{found[0]}`"
            yield self._found(record, what, event["layer"], int(event["step"]), where, died=died)
            return

    def _found(
        self, record: Record, what: str, layer: str | None, step: int, where: Location | None, died: bool = False
    ) -> Finding:
        state = condition(record)
        lasting = died or state.verdict == "non-finite"
        loss = record.loss()
        bad = loss.step[~np.isfinite(loss.value)]
        harm = (
            "the program ended by an error" if died
            else "the loss and then every weight became NaN" if lasting else "the loss of this batch is lost"
        )  # fmt: skip
        return self.finding(
            f"{what} holds NaN or infinite numbers at step {step}: {harm}; find the missing values where the data "
            "are made, and drop or impute them",
            severity="error" if lasting else "note", step=step, layer=layer,
            location=where,
            evidence={
                "step": step, "first_bad_loss": int(bad[0]) if len(bad) else "none", "bad_losses": len(bad),
                "losses": len(loss),
            },
        )  # fmt: skip
