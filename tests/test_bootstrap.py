"""The bootstrap: reaches every Python process, waits for torch, leaves no trace, takes nothing down."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FAKE_ATTACH = """
import json
import grp
import csv
import os
import colorsys
from wellfit.probe import arrive_probe_helper

def attach(torch, options):
    with open(os.path.join(options["run"], "attached.json"), "a") as file:
        file.write(json.dumps({
            "torch": torch.value, "options": options, "json": json.__file__, "grp": grp.__file__ or "built in",
            "pid": os.getpid(), "executed": torch.done,
        }) + "\\n")
"""

FAKE_TORCH = "value = 41\nfrom torch import part\nvalue += 1\ndone = True\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A copy of the bootstrap beside a probe and a torch of a few lines, and a run's folder."""
    probe = tmp_path / "ours" / "wellfit" / "probe"
    (probe / "bootstrap").mkdir(parents=True)
    for name in ("arrive.py", "bootstrap/sitecustomize.py"):
        shutil.copy(ROOT / "wellfit" / "probe" / name, probe / name)
    for file in (probe.parent / "__init__.py", probe / "__init__.py", probe / "arrive_probe_helper.py"):
        file.write_text("")
    (probe / "attach.py").write_text(FAKE_ATTACH)
    (tmp_path / "site" / "torch").mkdir(parents=True)
    (tmp_path / "site" / "torch" / "__init__.py").write_text(FAKE_TORCH)
    (tmp_path / "site" / "torch" / "part.py").write_text("")
    for name in ("run", "work"):
        (tmp_path / name).mkdir()
    return tmp_path


def start(place: Path, code: str, *, watched: bool = True, flags: tuple[str, ...] = (), **env: str):
    """Run `code` as work/script.py, with the bootstrap first on PYTHONPATH or without it."""
    (place / "work" / "script.py").write_text(code)
    path = [str(place / "site"), *filter(None, [env.pop("more", "")])]
    if watched:
        path.insert(0, str(place / "ours" / "wellfit" / "probe" / "bootstrap"))
        env = {"WELLFIT_RUN": str(place / "run"), "WELLFIT_OPTIONS": '{"overhead": 0.01}', **env}
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "WELLFIT"))}
    return subprocess.run(
        [sys.executable, *flags, "script.py"], cwd=place / "work", text=True, capture_output=True, timeout=60,
        env={**clean, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1", **env},
    )  # fmt: skip


def attached(place: Path) -> list[dict]:
    import json

    file = place / "run" / "attached.json"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def same(place: Path, code: str, **more) -> subprocess.CompletedProcess:
    """Run with and without the bootstrap: same output, same exit code. Returns the watched one."""
    plain = start(place, code, watched=False, **dict(more))
    watched = start(place, code, **dict(more))
    assert (watched.stdout, watched.stderr, watched.returncode) == (plain.stdout, plain.stderr, plain.returncode)
    return watched


def test_attaches_once_after_torch_was_executed(place):
    same(place, "import torch\nimport torch.part\nimport torch\nprint(torch.value)")
    (said,) = attached(place)
    assert said["torch"] == 42 and said["executed"] is True
    assert said["options"] == {"overhead": 0.01, "run": str(place / "run")}


def test_leaves_no_trace_in_the_import_system(place):
    same(
        place,
        "import sys\nimport torch\n"
        "print([type(f).__name__ if not isinstance(f, type) else f.__name__ for f in sys.meta_path])\n"
        "print(type(torch.__loader__), vars(torch.__loader__), torch.__spec__.loader is torch.__loader__)\n"
        "print(sys.path, 'sitecustomize' in sys.modules, any('bootstrap' in p for p in sys.path_importer_cache))",
    )
    assert attached(place)


def test_without_torch_nothing_is_imported(place):
    same(place, "import sys\nprint(sorted(sys.modules))")
    assert not attached(place)


def test_asking_for_torch_is_not_importing_it(place):
    code = "import importlib.util\nprint(importlib.util.find_spec('torch').name)\n"
    same(place, code)
    assert not attached(place)
    same(place, code + "import torch")
    assert len(attached(place)) == 1


@pytest.mark.parametrize("shadow", ["json.py", "grp.py", "csv.py", "colorsys.py"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_users_file_named_like_a_standard_module(place, shadow, when):
    """The user's own file wins for the user, the true module for us."""
    name = shadow.removesuffix(".py")
    (place / "work" / shadow).write_text("mine = 'the user\\'s'\n")
    use = f"import {name}\nprint({name}.mine, {name}.__file__)\n"
    code = use + "import torch\n" + use if when == "before" else "import torch\n" + use
    result = same(place, code)
    assert "the user's" in result.stdout and result.stderr == ""
    (said,) = attached(place)
    assert str(place) not in said["json"] and str(place) not in said["grp"]


def test_a_users_package_named_like_a_standard_module(place):
    (place / "work" / "json").mkdir()
    (place / "work" / "json" / "__init__.py").write_text("from json import inner\n")
    (place / "work" / "json" / "inner.py").write_text("x = 7\n")
    same(
        place,
        "import json, sys, torch\nimport json.inner\nprint(json.inner.x, json.inner is sys.modules['json.inner'])",
    )
    assert len(attached(place)) == 1


def test_standard_modules_that_only_we_needed_are_forgotten(place):
    same(
        place, "import torch, sys\nprint([n for n in ('colorsys', 'csv', 'json', 'json.decoder') if n in sys.modules])"
    )
    assert len(attached(place)) == 1


def test_a_foreign_module_called_wellfit_stays_the_users(place):
    (place / "work" / "wellfit.py").write_text("mine = 1\n")
    same(
        place,
        "import wellfit, sys\nimport torch\nimport wellfit\nprint(wellfit.mine, sys.modules['wellfit'] is wellfit)",
    )
    assert len(attached(place)) == 1


@pytest.mark.parametrize(
    "torch",
    [
        "raise ImportError('no libcuda')",
        "import a_module_that_is_missing",
        "raise RuntimeError('broken')",
        "def f():\n    1 / 0\nf()",
        "import sys\nsys.exit(7)",
        "raise KeyboardInterrupt",
        "this is no python",
    ],
)
def test_a_failing_import_of_torch_looks_as_without_us(place, torch):
    (place / "site" / "torch" / "__init__.py").write_text(torch + "\n")
    result = same(place, "import torch\n")
    assert result.returncode != 0
    assert not attached(place)


def test_a_missing_torch_looks_as_without_us(place):
    shutil.rmtree(place / "site" / "torch")
    assert "ModuleNotFoundError" in same(place, "import torch\n", flags=("-S",)).stderr
    assert "ModuleNotFoundError" in start(place, "import torch\n", flags=("-S",)).stderr


def test_attaches_when_the_second_try_succeeds(place):
    (place / "site" / "torch" / "__init__.py").write_text(
        "import os\nif os.environ.setdefault('TRIES', '0') == '0':\n    os.environ['TRIES'] = '1'\n"
        "    raise ImportError('not now')\n" + FAKE_TORCH
    )
    same(
        place,
        "try:\n    import torch\nexcept ImportError as error:\n    print(error)\nimport torch\nprint(torch.value)",
    )
    assert len(attached(place)) == 1


@pytest.mark.parametrize(
    "attach, reason",
    [
        ("raise ValueError('bad\\nluck')", "ValueError: bad luck"),
        ("def attach(torch, options):\n    return 1 / 0", "ZeroDivisionError: division by zero"),
        ("no python", "SyntaxError"),
    ],
)
def test_an_error_of_ours_is_one_line_and_the_script_goes_on(place, attach, reason):
    (place / "ours" / "wellfit" / "probe" / "attach.py").write_text(attach + "\n")
    result = start(place, "import torch, sys\nprint(torch.value, sys.path[0].endswith('work'))")
    assert (result.stdout, result.returncode) == ("42 True\n", 0)
    assert result.stderr.startswith(f"wellfit: could not attach ({reason}")
    assert result.stderr.endswith("; the script runs unwatched\n") and result.stderr.count("\n") == 1
    assert "failed " + reason.split(":")[0] in (place / "run" / "torch.txt").read_text()


@pytest.mark.parametrize("damage", ["missing folder", "bad options", "no arrive.py"])
def test_what_we_need_is_gone(place, damage):
    env = {}
    if damage == "missing folder":
        shutil.rmtree(place / "run")
    elif damage == "bad options":
        env["WELLFIT_OPTIONS"] = "{"
    else:
        (place / "ours" / "wellfit" / "probe" / "arrive.py").unlink()
    result = start(place, "import torch\nprint(torch.value)", **env)
    assert (result.stdout, result.returncode) == ("42\n", 0)
    assert result.stderr.count("wellfit: could not attach") == 1


def test_closed_stderr_and_an_error_of_ours(place):
    (place / "ours" / "wellfit" / "probe" / "attach.py").write_text("1 / 0\n")
    result = start(place, "import sys, os\nsys.stderr = None\nimport torch\nprint(torch.value)")
    assert (result.stdout, result.stderr, result.returncode) == ("42\n", "", 0)


@pytest.mark.parametrize(
    "theirs",
    [
        "import sys\nprint('theirs', __name__, __file__, __spec__.name)\nsys.marker = 1\n",
        "raise RuntimeError('theirs is broken')\n",
        "import a_module_that_is_missing\n",
        "import torch\nprint(torch.value)\n",
    ],
)
def test_a_users_own_sitecustomize_is_chained(place, theirs):
    (place / "other").mkdir()
    (place / "other" / "sitecustomize.py").write_text(theirs)
    same(
        place,
        "import sys\nm = sys.modules.get('sitecustomize')\nprint(m and m.__file__, hasattr(sys, 'marker'))",
        more=str(place / "other"),
    )
    start(place, "import torch", more=str(place / "other"))
    assert attached(place)


def test_a_users_own_sitecustomize_that_exits(place):
    (place / "other").mkdir()
    (place / "other" / "sitecustomize.py").write_text("import sys\nsys.exit(4)\n")
    plain = start(place, "print(1)", watched=False, more=str(place / "other"))
    watched = start(place, "print(1)", more=str(place / "other"))
    assert (watched.stdout, watched.returncode) == (plain.stdout, plain.returncode) == ("", 1)
    assert watched.stderr.splitlines()[-1] == plain.stderr.splitlines()[-1] == "SystemExit: 4"


def test_without_a_run_nothing_happens(place):
    same(place, "import torch, sys\nprint(sys.path, type(sys.meta_path[0]))", WELLFIT_RUN="")
    assert not attached(place)


@pytest.mark.parametrize("how", ["subprocess", "spawn", "fork"])
def test_children_are_reached(place, how):
    if how == "subprocess":
        code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import torch; print(torch.value)'])\n"
    else:
        code = (
            "import multiprocessing\ndef work():\n    import torch\n    print(torch.value, flush=True)\n"
            f"if __name__ == '__main__':\n    c = multiprocessing.get_context('{how}').Process(target=work)\n"
            "    c.start()\n    c.join()\n"
        )
    same(place, code)
    assert len(attached(place)) == 1


@pytest.mark.parametrize("flag", ["-I", "-E", "-S"])
def test_isolated_pythons_are_left_alone(place, flag):
    same(
        place,
        f"import sys\nsys.path.insert(0, {str(place / 'site')!r})\nimport torch\nprint(torch.value)",
        flags=(flag,),
    )
    assert not attached(place)


def test_the_true_torch_is_watched_from_the_checkout(tmp_path):
    """With the real probe: wellfit is not on the script's path, yet it is what attaches."""
    (tmp_path / "script.py").write_text(
        "import sys\nbefore = list(sys.path)\nimport torch\nassert sys.path == before\n"
        "print(sys.modules['wellfit'].__path__[0], 'wellfit.probe.attach' in sys.modules, torch.ones(2).sum().item())\n"
    )
    run = tmp_path / "run"
    run.mkdir()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "WELLFIT"))}
    bootstrap = str(ROOT / "wellfit" / "probe" / "bootstrap")
    env = {**clean, "PYTHONPATH": bootstrap, "WELLFIT_RUN": str(run)}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=env, text=True, capture_output=True, timeout=120
    )
    assert (done.stdout, done.stderr, done.returncode) == (f"{ROOT / 'wellfit'} True 2.0\n", "", 0)
