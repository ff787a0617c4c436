"""The probe under odd tensors, odd programs and faults of its own: the run goes on as if it were not there."""

from __future__ import annotations

import inspect
from pathlib import Path

import probed
import pytest

from wellfit.probe.activations import Activations
from wellfit.probe.backwards import Backwards
from wellfit.probe.evaluation import Evaluations
from wellfit.probe.layers import Layers
from wellfit.probe.losses import Losses
from wellfit.probe.observer import Observer
from wellfit.probe.optimizers import Optimizers
from wellfit.probe.patterns import Patterns
from wellfit.probe.trace import Trace
from wellfit.probe.weights import Weights

# Odd tensors ---------------------------------------------------------------------------------------------------------

ODD = {
    "nan": "torch.full((4, 3), float('nan'))",
    "infinite": "torch.full((4, 3), float('-inf'))",
    "empty": "torch.zeros(0, 3)",
    "no features": "torch.zeros(4, 0)",
    "number": "torch.tensor(1.5)",
    "vector": "torch.ones(5)",
    "complex": "torch.randn(4, 3, dtype=torch.complex64)",
    "imaginary part": "torch.randn(4, 3, dtype=torch.complex64).conj().imag",
    "bool": "torch.ones(4, 3, dtype=torch.bool)",
    "int64": "torch.ones(4, 3, dtype=torch.int64)",
    "uint8": "torch.ones(4, 3, dtype=torch.uint8)",
    "half": "torch.ones(4, 3, dtype=torch.half) * 60000",
    "bfloat16": "torch.ones(4, 3, dtype=torch.bfloat16)",
    "float8": "torch.ones(4, 3).to(torch.float8_e4m3fn)",
    "double": "torch.ones(4, 3, dtype=torch.double) * 1e300",
    "sparse coo": "torch.eye(4).to_sparse()",
    "sparse csr": "torch.eye(4).to_sparse_csr()",
    "meta": "torch.ones(4, 3, device='meta')",
    "quantised": "torch.quantize_per_tensor(torch.ones(4, 3), 0.1, 0, torch.qint8)",
    "nested": "torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)])",
    "jagged": "torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=torch.jagged)",
    "expanded": "torch.ones(1, 3).expand(400, 3)",
    "strided": "torch.randn(8, 9, 10)[::2, ::3, 1::4].transpose(0, 2)",
    "many axes": "torch.ones((1,) * 20)",
    "subclass": "torch.ones(4, 3).as_subclass(Sub)",
    "not a tensor": "{'logits': [None, 3]}",
    "nothing": "None",
    "tuple": "(torch.ones(4, 3), None)",
    "empty tuple": "()",
}
AS_OUTPUT = """
    class Sub(torch.Tensor):
        pass

    class Linear(nn.Linear):
        def forward(self, given, *more):
            return given

    class ReLU(nn.ReLU):
        def forward(self, given):
            return given

    class LSTM(nn.LSTM):
        def forward(self, given):
            return given, None

    torch.manual_seed(0)
    x = torch.randn(6, 3)
    true = nn.Linear(3, 2)
    odd = nn.ModuleList([Linear(3, 2), ReLU(), nn.Sequential(nn.Identity()), LSTM(3, 2), nn.Dropout(0.0)])
    opt = torch.optim.SGD(true.parameters(), lr=0.1)
    for step in range(3):
        value = {value}
        for layer in odd[:4]:
            layer(value)
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not value.is_meta:
            value = value.detach()
            try:
                value.requires_grad_()
                (2 * odd[0](odd[1](value))).sum().backward()
            except (RuntimeError, NotImplementedError):
                pass
        opt.zero_grad()
        loss = F.cross_entropy(true(x), torch.arange(6) % 2)
        loss.backward()
        opt.step()
        print(loss.item())
        with torch.no_grad():
            odd[0](value)
"""

TRAINING = """
    torch.manual_seed(0)
    net = nn.Linear(4, 2)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(200):
        opt.zero_grad()
        loss = F.cross_entropy(net(torch.ones(3, 4)), torch.arange(3) % 2)
        loss.backward()
        opt.step()
    print(loss.item())
    """
PROGRAMS = {
    "losses of all kinds": """
    w = nn.Parameter(torch.ones(3))
    opt = torch.optim.SGD([w], lr=0.01)
    for make in (
        lambda: (w * 2).backward(torch.ones(3)), lambda: torch.autograd.backward([w.sum(), (w * w).sum()]),
        lambda: torch.autograd.backward((w * 2,), (torch.ones(3),)), lambda: (w.sum() * float("inf")).backward(),
        lambda: (w.sum() * 0 / 0).backward(), lambda: w.to(torch.complex64).sum().abs().backward(),
        lambda: torch.autograd.backward([w.to(torch.complex64).sum()], [torch.ones((), dtype=torch.complex64)]),
        lambda: w.half().sum().backward(), lambda: w.bfloat16().sum().backward(), lambda: w[:0].sum().backward(),
        lambda: w.sum().to_sparse().to_dense().backward(), lambda: torch.autograd.backward(torch.stack([w, w]).mean()),
        lambda: (w.sum() / torch.zeros(())).backward(),
    ):
        for step in range(2):
            opt.zero_grad()
            make()
            print(w.grad)
            with torch.no_grad():
                w.grad.nan_to_num_(0.0, 1.0, 0.0)
            opt.step()
    """,
    "parameters of all kinds": """
    torch.manual_seed(0)

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.empty, self.number = nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.tensor(1.0))
            self.short, self.wide = nn.Parameter(torch.ones(3).half()), nn.Parameter(torch.ones(3).double())
            self.imaginary = nn.Parameter(torch.ones(3, dtype=torch.complex64))
            self.unused = nn.Parameter(torch.ones(3))
            self.strided = nn.Parameter(torch.ones(6, 4)[::2].t())
            self.not_finite = nn.Parameter(torch.tensor([1.0, float("nan")]))
            self.table = nn.Embedding(5, 3, sparse=True)
            self.whole = nn.Parameter(torch.ones(3, dtype=torch.int64), requires_grad=False)

        def forward(self, i):
            total = self.number * 2 + self.short.sum().float() + self.wide.sum().float() + self.imaginary.abs().sum()
            return total + self.strided.sum() + self.table(i).sum() + self.empty.sum() + self.not_finite.sum()

    net = Odd()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(4):
        opt.zero_grad()
        net(torch.tensor([1, 2])).backward()
        opt.step()
        print([p.sum() for p in net.parameters()])
    """,
    "meta": """
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(3):
        opt.zero_grad()
        loss = F.cross_entropy(net(torch.ones(4, 4, device="meta")), torch.ones(4, dtype=torch.int64, device="meta"))
        loss.backward()
        opt.step()
    print(loss)
    """,
    "fake": """
    from torch._subclasses.fake_tensor import FakeTensorMode
    with FakeTensorMode():
        net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        for step in range(3):
            opt.zero_grad()
            loss = F.cross_entropy(net(torch.ones(4, 4)), torch.ones(4, dtype=torch.int64))
            loss.backward()
            opt.step()
        print(loss)
    """,
    "a dispatch mode counts": """
    from torch.utils._python_dispatch import TorchDispatchMode
    seen = []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    opt = torch.optim.Adam(net.parameters(), lr=0.1)
    with Counting():
        for step in range(4):
            opt.zero_grad()
            loss = F.cross_entropy(net(torch.ones(4, 4)), torch.ones(4, dtype=torch.int64))
            loss.backward()
            opt.step()
    print(loss.item(), seen)
    """,
    "traced, scripted, exported": """
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.LSTM(3, 2))
    x = torch.randn(5, 4)
    print(torch.jit.trace(net[:2], x).graph)
    print(torch.fx.symbolic_trace(net[:2]).graph)
    print(torch.export.export(net, (x,)).graph)
    print(torch.jit.script(net[:2]).code)
    scripted = torch.jit.trace(net[:2], x)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(3):
        opt.zero_grad()
        loss = scripted(x).square().sum() + F.mse_loss(net(x)[0], torch.zeros(5, 2))
        loss.backward()
        opt.step()
        print(loss.item())
    """,
    "nan under a checkpoint": """
    from torch.utils.checkpoint import checkpoint
    torch.manual_seed(0)
    calls = []

    class Logging(nn.Module):
        def forward(self, x):
            calls.append(1)
            return torch.log(x - 1e9)

    net = nn.Sequential(nn.Linear(4, 3), Logging(), nn.Dropout(0.5))
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(3):
        opt.zero_grad()
        checkpoint(net, torch.ones(2, 4), use_reentrant=False).mul(2).square().sum().backward()
        opt.step()
    print(len(calls), torch.rand(1))
    """,
    "training in threads": """
    import threading
    def train(seed):
        generator = torch.Generator().manual_seed(seed)
        net = nn.Linear(4, 2)
        with torch.no_grad():
            net.weight.copy_(torch.randn(2, 4, generator=generator)), net.bias.zero_()
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        for step in range(20):
            opt.zero_grad()
            F.cross_entropy(net(torch.ones(3, 4)), torch.arange(3) % 2).backward()
            opt.step()
        results[seed] = net.weight.sum().item()
    results = {}
    threads = [threading.Thread(target=train, args=(seed,)) for seed in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(sorted(results.items()))
    """,
    "hostile names": r"""
    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module("</script><img src=x onerror=alert(1)>", nn.Linear(4, 4))
    net.add_module("\x1b[31mred\x1b[0m", nn.ReLU())
    net.add_module("two\nlines", nn.Linear(4, 2))
    net.add_module("\ud800", nn.Identity())
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(4):
        loss = F.cross_entropy(net(torch.ones(3, 4)), torch.arange(3) % 2)
        loss.backward()
        opt.step()
        print(loss.item())
    """,
    "strange modules": """
    torch.manual_seed(0)

    class Unhelpful(nn.Linear):
        def __getattr__(self, name):
            if name.startswith("_") or name in ("weight", "bias"):
                return super().__getattr__(name)
            raise ValueError("ask me nothing")

        def __eq__(self, other):
            raise ValueError("compare me with nothing")

        __hash__ = nn.Module.__hash__

    class Recursive(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Unhelpful(4, 4)

        def forward(self, x, depth):
            return self(torch.tanh(self.inner(x)), depth - 1) if depth else x

    net = Recursive()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(4):
        opt.zero_grad()
        loss = net(torch.ones(3, 4), 60).square().sum()
        loss.backward()
        opt.step()
        print(loss.item())
        net.inner = Unhelpful(4, 4)  # replaced while it trains
    """,
    "ten thousand tensors": """
    torch.manual_seed(0)
    net = nn.ParameterList([nn.Parameter(torch.full((1,), i * 1e-4)) for i in range(10_000)])
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(3):
        opt.zero_grad()
        loss = torch.cat(list(net)).square().sum()
        loss.backward()
        opt.step()
        print(loss.item())
    """,
    "full disk": """
    import errno, types
    import wellfit.probe.writer as writer

    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    writer.os = types.SimpleNamespace(**{**vars(os), "write": full})
    """
    + TRAINING,
    "disk full later": """
    import errno, types
    import wellfit.probe.writer as writer
    written = []

    def full(descriptor, data):
        written.append(1)
        if len(written) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(descriptor, data)

    writer.os = types.SimpleNamespace(**{**vars(os), "write": full})
    """
    + TRAINING,
}
SCRIPTS = {**{f"odd: {name}": AS_OUTPUT.format(value=value) for name, value in ODD.items()}, **PROGRAMS}

# Exceptions of the user's ---------------------------------------------------------------------------------------------

ERROR = """
    torch.manual_seed(0)

    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            raise ValueError("in backward")

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            if {where!r} == "forward" and step == 2:
                raise ValueError("in forward")
            x = self.fc(x)
            return Failing.apply(x) if {where!r} == "backward" and step == 2 else x

    class Stepping(torch.optim.SGD):
        def step(self, closure=None):
            if {where!r} == "step" and step == 2:
                raise ValueError("in step")
            return super().step(closure)

    net = Net()
    opt = Stepping(net.parameters(), lr=0.1)
    for step in range(4):
        opt.zero_grad()
        classes = 5 if {where!r} == "loss" and step == 2 else 2
        loss = F.cross_entropy(net(torch.ones(3, 4)), torch.arange(3) % classes + classes - 2)
        if {where!r} == "chained" and step == 2:
            try:
                loss.backward(torch.ones(7))
            except RuntimeError as error:
                raise KeyError("chained") from error
        loss.backward()
        if {where!r} == "again":
            loss.backward()
        opt.step()
        if {where!r} == "constructor":
            nn.Linear("a", 2)
        if {where!r} == "optimizer":
            torch.optim.SGD([], lr=0.1)
        if {where!r} == "exit":
            sys.exit(7)
        if {where!r} == "interrupt":
            raise KeyboardInterrupt
        if {where!r} == "no grad":
            with torch.no_grad():
                net(torch.ones(3, 4)).sum().backward()
"""
WHERE = (
    "forward",
    "backward",
    "step",
    "loss",
    "chained",
    "again",
    "constructor",
    "optimizer",
    "exit",
    "interrupt",
    "no grad",
)
ERRORS = {where: ERROR.format(where=where) for where in WHERE}

# Faults of ours -------------------------------------------------------------------------------------------------------

PARTS = (Observer, Activations, Evaluations, Losses, Weights, Trace, Backwards, Optimizers, Layers, Patterns)
LEFT_OUT = {"Trace.__torch_function__"}
FAULTS = [
    f"{part.__module__}:{part.__name__}.{name}"
    for part in PARTS
    for name, value in vars(part).items()
    if inspect.isfunction(value) and not name.startswith("__") and not value.__code__.co_freevars
]
FAULT = """
    import importlib
    import torch.utils.data

    def break_it(module, name):
        part, method = name.split(".")
        function = vars(getattr(importlib.import_module(module), part))[method]

        def broken(*args, **kwargs):
            import sys
            if not hasattr(sys, "injected"):
                sys.injected = []
            sys.injected.append(1)
            raise RuntimeError("injected")

        function.__code__ = broken.__code__
        function.__defaults__ = function.__kwdefaults__ = None

    break_it(*{where!r}.split(":"))
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.drop, self.head = nn.GRU(3, 6, batch_first=True), nn.Dropout(0.2), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(F.relu(self.drop(self.rnn(x)[0])).mean(1))

    net = Net()
    data = torch.utils.data.TensorDataset(torch.randn(24, 9, 3), torch.arange(24) % 2)
    loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    sched = torch.optim.lr_scheduler.StepLR(opt, 2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0 ** 120)
    for epoch in range(3):
        net.train()
        for x, y in loader:
            opt.zero_grad()
            loss = F.cross_entropy(net(x) + net(x).detach() * 0, y)
            if epoch == 1:
                scaler.scale(loss * 1e5).backward()  # overflows: the step is left out
                scaler.step(opt)
                scaler.update()
            else:
                loss.backward()
                if epoch == 2:
                    opt.zero_grad()  # by mistake
                opt.step()
            sched.step()
        net.eval()
        with torch.no_grad():
            loss = loss + F.cross_entropy(F.dropout(net(x), 0.5), y)
    (net(x).sum() * float("nan")).backward()
    opt.step()
    hash = [p.double().sum().item() for p in net.parameters()], loss.item(), torch.rand(3).tolist()
    print(hash)
    import atexit
    atexit._run_exitfuncs()  # ours among them
    print("reached" if hasattr(sys, "injected") else "not reached")
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, probed.Part]:
    fault = {"no fault": FAULT.replace("break_it(*", "(lambda *all: None)(*").format(where="a:b")}
    return probed.many(tmp_path_factory.mktemp("hard"), {**SCRIPTS, **ERRORS, **fault}, watched=False)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, bare) -> dict[str, probed.Part]:
    return probed.many(next(iter(bare.values())).script.parent, {**SCRIPTS, **ERRORS})


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, probed.Part]:
    return probed.many(tmp_path_factory.mktemp("faults"), {where: FAULT.format(where=where) for where in FAULTS})


@pytest.mark.parametrize("name", SCRIPTS)
def test_odd_programs_run_as_ever(bare, watched, name: str) -> None:
    assert bare[name].code == 0, bare[name].err  # else the program itself is wrong
    assert (watched[name].code, watched[name].out) == (0, bare[name].out)
    if "disk" in name:
        ours = [
            line
            for line in watched[name].err.splitlines()
            if line.startswith("wellfit: the record could not be written")
        ]
        assert len(ours) == 1 and watched[name].err.splitlines() == ours
        return
    assert watched[name].err == bare[name].err
    record = watched[name].record
    assert not record.events("switched-off") and not record.damage
    assert record.step_count >= 3


def test_a_full_disk_ends_the_record_only(watched) -> None:
    assert all(record.step_count == 0 for record in watched["full disk"].records)
    later = watched["disk full later"].record
    assert later.damage == [] and 0 < later.step_count < 200


def test_ten_thousand_tensors_are_recorded(watched) -> None:
    record = watched["ten thousand tensors"].record
    assert len(record.parameters) == 10_000 and len(record.subjects("gradient")) >= 1024


def test_hostile_names_are_kept_and_made_safe(watched) -> None:
    from wellfit.catalogue import rules
    from wellfit.diagnose import diagnose
    from wellfit.record import open_run
    from wellfit.report import findings_text, to_html

    part = watched["hostile names"]
    names = list(part.record.layers)
    assert "</script><img src=x onerror=alert(1)>" in names and "\x1b[31mred\x1b[0m" in names and "two\nlines" in names
    run = open_run(part.record._segments[0].path.parent)
    run._records = {part.record.prefix: part.record}
    findings = diagnose(run, rules()).findings
    assert findings
    assert "<img" not in to_html(findings, run)
    assert "\x1b" not in findings_text(findings, color=False, width=100, notes_shown=True, limit=None)


@pytest.mark.parametrize("where", WHERE)
def test_exceptions_of_the_user_are_told_as_ever(bare, watched, where: str) -> None:
    lines = [line for line in watched[where].err.splitlines() if not line.startswith("wellfit:")]
    assert lines == bare[where].err.splitlines()
    assert watched[where].code == bare[where].code
    assert watched[where].code not in (0, None)


@pytest.mark.parametrize("where", FAULTS)
def test_a_fault_of_ours_ends_watching_only(bare, faulty, where: str) -> None:
    part = faulty[where]
    numbers, reached = part.out.splitlines()
    assert (part.code, numbers) == (0, bare["no fault"].out.splitlines()[0])
    lines = part.err.splitlines()
    assert len(lines) == (reached == "reached"), part.err
    assert all(line.startswith("wellfit:") and "injected" in line for line in lines)


def test_most_faults_are_reached(faulty) -> None:
    unreached = [where for where, part in faulty.items() if part.out.endswith("not reached\n")]
    assert len(unreached) < 0.35 * len(FAULTS), unreached


# Other processes ------------------------------------------------------------------------------------------------------

HOGWILD = """
    import torch.multiprocessing as mp

    def train(net, rank):
        torch.manual_seed(rank)
        opt = torch.optim.SGD(net.parameters(), lr=0.01)
        for step in range(5 + rank):
            opt.zero_grad()
            F.mse_loss(net(torch.randn(8, 4)), torch.zeros(8, 2)).backward()
            opt.step()

    if __name__ == "__main__":
        net = nn.Linear(4, 2)
        net.share_memory()
        context = mp.get_context({method!r})
        workers = [context.Process(target=train, args=(net, rank)) for rank in range(2)]
        [worker.start() for worker in workers]
        [worker.join() for worker in workers]
        print([worker.exitcode for worker in workers])
"""


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_hogwild_processes_have_a_record_each(tmp_path: Path, method: str) -> None:
    found = probed.probed([str(probed.written(tmp_path, HOGWILD.format(method=method)))], tmp_path)
    assert (found.code, found.out, found.err) == (0, "[0, 0]\n", "")
    assert sorted(record.step_count for record in found.run.records) == [5, 6]
    for record in found.run.records:
        assert not record.events("switched-off") and not record.damage
        assert record.subjects("update") == ["weight", "bias"] or len(record.subjects("update")) == 2


def test_a_script_that_never_trains(tmp_path: Path) -> None:
    script = probed.written(
        tmp_path, "net = nn.Linear(2, 2)\nwith torch.no_grad():\n    print(net(torch.ones(2)).shape)\n"
    )
    done = probed.plain(["-m", "wellfit", "run", str(script)], tmp_path)
    assert (done.returncode, done.stdout) == (0, "torch.Size([2])\n")
    assert done.stderr == "wellfit: saw no training: torch was imported, but nothing called backward()\n"
