"""DST904: all processes wait for one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wellfit.finding import Finding, Fix
from wellfit.record import Record
from wellfit.record.curves import Floats
from wellfit.rule import Family, Rule
from wellfit.rules.layering import first_backward
from wellfit.rules.replicas import are_replicas, ranks


@dataclass(frozen=True)
class Pace:
    """Where the time of one process goes in a step.

    Args:
        own: float64 (n,): seconds from the end of a step to the next backward: data and forward, its own work.
        rest: float64 (n,): seconds from there to the end of the step, where gradients are exchanged.
    """

    own: Floats
    rest: Floats


class Straggler(Rule):
    """One process needs far longer than the others before each backward, and all wait for it.

    What it checks
    Copies of one model that exchange gradients. On `steps` watched steps or more of each process: the time before
    backward, which is its own (data, forward, whatever else one rank does), and the time from there to the end of the
    step, in which it waits for the others. The slowest needs longer than each other one in `often` of their steps, its
    excess is `waits` of a step or more (`noted`: a note) and `least` at least, and the others wait for half of it.

    Why it hurts
    A step takes as long as its slowest process: all the others stand idle for the rest.

    Cure
    Look at what that process alone does: evaluation, saving or logging in each step (do it rarely, or in a thread); a
    slow disk or too few workers of its loader; longer sequences in its part of the data.

    Fix safety
    Only the program's author can do it.

    When it is wrong
    On a GPU the time of a forward call is that of giving it its orders: a slow GPU is not seen, slow data are. Where
    processes wait for one another in forward as well (FSDP), none stands out.

    References
    Dean and Barroso 2013, "The tail at scale"; documentation of torch.nn.parallel.DistributedDataParallel.
    """

    code = "DST904"
    name = "straggler"
    family: ClassVar[Family] = "distributed"
    summary = "all processes wait for one in each step"
    reads = ("loss.time", "steps")
    consequences = ()
    fixes = (Fix("Take the work that only this process does out of each step"),)

    steps: int = 15  # watched steps of each process
    waits: float = 1 / 3  # of a step that the others wait for the slowest: the run would be half as fast again
    noted: float = 0.2  # of a step
    often: float = 0.75  # of all pairs of its steps and another's, in which it needs longer
    least: float = 2e-3  # seconds a step; less is noise of the clock and of the machine

    @staticmethod
    def sick() -> None:
        import os
        import time

        import torch
        import torch.distributed as dist
        from torch import nn
        from torch.nn.parallel import DistributedDataParallel

        def train(rank):
            os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
            store = dist.FileStore("ranks", 2)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
            ddp = DistributedDataParallel(model)
            optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
            torch.manual_seed(rank)
            for _ in range(30):
                x = torch.randn(32, 8)
                y = (x[:, 0] > 0).long()
                if rank == 1:
                    time.sleep(0.05)  # its part of the data is read from a slow disk
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(ddp(x), y)
                loss.backward()
                optimizer.step()
            dist.barrier()

        child = os.fork()
        train(0 if child else 1)
        if child:
            os.waitpid(child, 0)

    @staticmethod
    def healthy() -> None:
        import os
        import time

        import torch
        import torch.distributed as dist
        from torch import nn
        from torch.nn.parallel import DistributedDataParallel

        def train(rank):
            os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
            store = dist.FileStore("ranks", 2)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
            ddp = DistributedDataParallel(model)
            optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
            torch.manual_seed(rank)
            for step in range(30):
                x = torch.randn(32, 8)
                y = (x[:, 0] > 0).long()
                if step % 10 == 0 and rank == 0:
                    time.sleep(0.05)  # saves the model now and then
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(ddp(x), y)
                loss.backward()
                optimizer.step()
            dist.barrier()

        child = os.fork()
        train(0 if child else 1)
        if child:
            os.waitpid(child, 0)

    def check_together(self, records: Sequence[Record]) -> Iterator[Finding]:
        together = ranks(records)
        if not together or not all(are_replicas(together[0], other) for other in together[1:]):
            return
        paces = [pace(record) for record in together]
        if min(len(one.own) for one in paces) < self.steps:
            return
        slow = int(np.argmax([np.median(one.own) for one in paces]))
        others = [one for place, one in enumerate(paces) if place != slow]
        slowest = paces[slow]
        usual = max(float(np.median(one.own)) for one in others)
        excess = float(np.median(slowest.own)) - usual
        whole = float(np.median(slowest.own + slowest.rest))
        apart = min(_share_above(slowest.own, one.own) for one in others) >= self.often
        waited = min(float(np.median(one.rest)) for one in others) - float(np.median(slowest.rest))
        if not (apart and excess >= self.least and excess >= self.noted * whole and waited >= 0.5 * excess):
            return
        yield self._told(together[slow], excess, usual, whole)

    def _told(self, record: Record, excess: float, usual: float, whole: float) -> Finding:
        share = excess / whole
        loader = next((one for one in record.loaders.values() if one.location is not None), None)
        backward = first_backward(record)
        return self.finding(
            f"all processes wait for rank {record.rank}: before backward it needs {1e3 * (usual + excess):.3g} ms, "
            f"others {1e3 * usual:.3g} ms, and {100 * share:.0f} % of their time is lost; look at its data and at what "
            "this rank alone does in each step",
            severity="error" if share >= self.waits else "note", step=0,
            location=loader.location if loader is not None else backward,
            evidence={"rank": record.rank, "seconds": usual + excess, "others": usual, "share": share},
            sure=record.finished,
        )  # fmt: skip


def _share_above(one: Floats, other: Floats) -> float:
    """The share of all pairs in which the number of the first is larger."""
    return float(np.searchsorted(np.sort(other), one, side="left").mean()) / len(other)


def pace(record: Record) -> Pace:
    """Where the time of a process goes, of the watched steps (on others it is not known when backward began)."""
    backward, ends = record.loss(), record.steps
    if backward.time is None or not len(backward) or not len(ends):
        return Pace(np.empty(0), np.empty(0))
    # The first row of a step: where several optimizers step, it ends with the first.
    step, first = np.unique(ends["step"].astype(np.int64), return_index=True)
    time = ends["x"].astype(np.float64)[first]
    of_step = {"end": np.searchsorted(step, backward.step), "before": np.searchsorted(step, backward.step - 1)}
    known = (of_step["end"] < len(step)) & (of_step["before"] < len(step))
    end, before = (np.minimum(at, len(step) - 1) for at in of_step.values())
    known &= (step[end] == backward.step) & (step[before] == backward.step - 1)
    own, rest = backward.time - time[before], time[end] - backward.time
    known &= (own > 0) & (rest >= 0) & np.isfinite(own) & np.isfinite(rest)
    return Pace(own[known], rest[known])
