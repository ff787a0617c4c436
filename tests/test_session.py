"""`wellfit.watch()` inside a program: one session, read while it runs, and torch as it was after it."""

from __future__ import annotations

import json
from pathlib import Path

import probed
import pytest

from wellfit.runs import runs_text

SCRIPT = """
    import json
    import pathlib
    import torch.utils.data
    import wellfit
    from wellfit.errors import WellfitError

    optim, amp = torch.optim, torch.amp
    HOLDERS = {
        "torch": torch, "autograd": torch.autograd, "F": F, "Module": nn.Module, "Optimizer": optim.Optimizer,
        "Scheduler": optim.lr_scheduler.LRScheduler, "DataLoader": torch.utils.data.DataLoader,
        "GradScaler": amp.GradScaler, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode,
        "Tensor": torch.Tensor,
    }
    HOOKS = ["_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks"]

    def state():
        kept = {(name, key): value for name, holder in HOLDERS.items() for key, value in vars(holder).items()}
        hooks = [list(getattr(nn.modules.module, name)) for name in HOOKS]
        optimizer = sys.modules["torch.optim.optimizer"]
        hooks += [list(optimizer._global_optimizer_pre_hooks), list(optimizer._global_optimizer_post_hooks)]
        return kept, hooks

    def changed(before, after):
        names = before[0].keys() | after[0].keys()
        missing = object()
        moved = [n for n in names if before[0].get(n, missing) is not after[0].get(n, missing)]
        ignored = ("_warn_on_missing_hooks", "__annotations__")
        return sorted(".".join(n) for n in moved if n[1] not in ignored), before[1] == after[1]

    def train(steps):
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        for step in range(steps):
            loss = F.cross_entropy(net(torch.randn(8, 4)), torch.arange(8) % 2)  # no zero_grad
            loss.backward()
            opt.step()
            if step == 3:
                net.eval()
        return net

    def refused(call):
        try:
            call()
        except WellfitError as error:
            return str(error)

    train(1)  # torch imports parts of itself at the first step
    told = {"imported": "wellfit.probe.attach" in sys.modules}
    before = state()
    session = wellfit.watch()
    told["patched"] = len(changed(before, state())[0])
    told["twice"] = wellfit.watch("ignored") is session and not pathlib.Path("ignored").exists()
    told["runs"] = len(list(pathlib.Path(".wellfit").glob("2*")))
    told["too early"] = len(session.run.records)
    train(12)
    told["steps"] = session.run.records[0].step_count
    train(12)
    told["more steps"] = session.run.records[0].step_count
    told["findings"] = [finding.rule for finding in session.diagnose()]
    told["none selected"] = [finding.rule for finding in session.diagnose(ignore=("stale-grad",))]
    told["unknown rule"] = refused(lambda: session.diagnose(select=("no-such-rule",)))
    page = session.report("page.html")
    told["page"] = page.read_text()[:15].lower()
    told["beside"] = session.report().parent == session.folder
    session.stop()
    told["left"] = changed(before, state())
    session.stop()
    train(5)
    told["after"] = session.run.records[0].step_count
    with wellfit.watch("elsewhere", overhead=5.0, quota=10) as second:
        train(3)
        told["second"] = (second.run.records[0].step_count, second.folder == pathlib.Path("elsewhere").absolute())
    told["left again"] = changed(before, state())
    told["overhead"] = refused(lambda: wellfit.watch(overhead=-1.0))
    told["quota"] = refused(lambda: wellfit.watch(quota=0))
    told["a file"] = refused(lambda: wellfit.watch("page.html"))
    try:
        with wellfit.watch():
            raise KeyError("mine")
    except KeyError:
        told["after an error"] = changed(before, state())
    print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("session")
    script = probed.written(folder, SCRIPT)
    done = probed.plain([str(script)], folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("wellfit: this process is watched already: ") and done.stderr.count("\n") == 1
    assert list((folder / ".wellfit").glob("*script*/*.wfr"))
    return json.loads(done.stdout.splitlines()[-1])


def test_stop_puts_everything_back(told: dict) -> None:
    assert told["patched"] > 20
    assert told["left"] == told["left again"] == told["after an error"] == [[], True]


def test_a_session_is_read_while_it_runs(told: dict) -> None:
    assert told["too early"] == 0
    assert (told["steps"], told["more steps"], told["after"]) == (12, 24, 24)


def test_a_second_session_after_the_first(told: dict) -> None:
    assert told["second"] == [3, True]


def test_watching_twice_gives_back_the_session_and_makes_no_folder(told: dict) -> None:
    assert told["twice"]
    assert told["runs"] == 1


ENDS = """
    import os
    import wellfit

    session = wellfit.watch()
    if os.fork() == 0:
        sys.exit()
    os.wait()
    print((session.folder / "run.json").read_text())
    if "die" in sys.argv:
        os._exit(1)
"""


def test_how_a_session_ended_and_what_began_it_is_in_the_list_of_runs(tmp_path: Path) -> None:
    script = probed.written(tmp_path, ENDS)
    done = probed.plain([str(script), "--lr", "3"], tmp_path)
    assert '"status": "running"' in done.stdout, done.stderr  # the end of a fork is not the end
    probed.plain([str(script), "die"], tmp_path)
    whole, cut = runs_text(tmp_path).splitlines()
    assert "  ended  " in whole and "  python" in whole and whole.endswith(f" {script} --lr 3")
    assert "  cut short  " in cut


UNDER = """
    import wellfit

    with wellfit.watch() as session:
        assert wellfit.watch() is session
        net = nn.Linear(4, 2)
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        for step in range(30):
            if step == 20:
                session.stop()
            loss = F.cross_entropy(net(torch.randn(8, 4)), torch.arange(8) % 2)  # no zero_grad
            loss.backward()
            opt.step()
    print([finding.rule for finding in session.diagnose()])
    sys.exit(3)
"""


def test_under_wellfit_run_a_script_gets_the_session_of_the_run(tmp_path: Path) -> None:
    script = probed.written(tmp_path, UNDER)
    done = probed.plain(["-m", "wellfit", "run", "--no-report", str(script)], tmp_path)
    assert (done.returncode, done.stdout) == (3, "['stale-grad']\n"), done.stderr
    assert "30 steps" in done.stderr and "watched already" not in done.stderr  # stopping is not the script's
    assert len(list((tmp_path / ".wellfit").glob("2*"))) == 1


@pytest.mark.parametrize(("key", "part"), [("overhead", "overhead"), ("quota", "quota"), ("a file", "page.html")])
def test_wrong_values_are_refused(told: dict, key: str, part: str) -> None:
    assert part in told[key]


def test_findings_and_page(told: dict) -> None:
    assert "stale-grad" in told["findings"]
    assert "stale-grad" not in told["none selected"]
    assert "no-such-rule" in told["unknown rule"]
    assert told["page"] == "<!doctype html>" and told["beside"]


def test_importing_wellfit_does_not_import_torch(tmp_path: Path) -> None:
    done = probed.plain(["-c", "import sys, wellfit; print('torch' in sys.modules, sorted(wellfit.__all__))"], tmp_path)
    assert done.stdout.startswith("False") and "watch" in done.stdout
