"""The command line: verbs, settings, errors of one sentence; and that it stays light."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wellfit import catalogue, config
from wellfit.cli import main
from wellfit.errors import WellfitError
from wellfit.finding import Fix
from wellfit.rule import Rule
from wellfit.rule_page import rule_json, rule_text, sections

ROOT = Path(__file__).resolve().parent.parent


def python(code: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess:
    code = f"import sys; sys.path.insert(1, {str(ROOT)!r})\n{code}"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "WELLFIT"))}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env={**clean, **env}, text=True, capture_output=True, timeout=60
    )


@pytest.mark.parametrize(
    "code", ["import wellfit; wellfit.Finding; dir(wellfit)", "from wellfit.cli import main; main(['--version'])"]
)
def test_starting_is_light(code):
    heavy = "[m for m in ('torch', 'numpy', 'asyncio', 'http', 'importlib.metadata') if m in sys.modules]"
    assert python(f"{code}\nprint({heavy})").stdout.splitlines()[-1] == "[]"


def test_public_names_are_sorted_and_there():
    import wellfit

    assert list(wellfit.__all__) == sorted(wellfit.__all__)
    for name in wellfit.__all__:
        if name != "watch":  # needs torch
            assert getattr(wellfit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = wellfit.nothing


def test_no_verb_torch_or_numpy_in_rules_and_pages():
    name = catalogue.known_rules()[0][0].name if catalogue.known_rules()[0] else None
    verbs = [["rules"]] + ([["rule", name]] if name else [])
    for verb in verbs:
        done = python(f"from wellfit.cli import main; main({verb!r})\nprint('torch' in sys.modules)")
        assert done.stdout.splitlines()[-1] == "False", done.stderr


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["rin"], 'there is no command "rin" (did you mean "run"?); `wellfit` lists them all'),
        (["train.py"], "to run train.py under watch: wellfit run train.py"),
        (["run", "--formt", "json", "x.py"], 'run has no option --formt (did you mean "--format"?)'),
        (["run", "--format", "xml", "x.py"], "argument --format: invalid choice: 'xml'"),
        (["run", "--overhead", "0", "x.py"], "--overhead is a percentage above 0 and up to 100, not 0.0"),
        (["run", "--overhead", "much", "x.py"], "argument --overhead: invalid float value: 'much'"),
        (["run", "--quota", "-1", "x.py"], "--quota is a whole number of MB, at least 1, not -1"),
        (["run", "--select", "no-such-rule", "x.py"], 'no rule is called "no-such-rule"'),
        (["rules", "lr-low"], "wellfit: rules lists them all: did you mean `wellfit rule lr-low`?"),
        (["overrides", "lr"], "wellfit: overrides lists them all: did you mean `wellfit override lr`?"),
        (["rule"], "the following arguments are required: name"),
        (["rule", "no-such-rule"], 'there is no rule "no-such-rule"'),
        (["diagnose", "nowhere"], "`wellfit runs` lists them"),
        (["diagnose", "last"], "start one with `wellfit run train.py`"),
        (["report", "."], "holds no record"),
        (["runs", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_errors_are_one_sentence(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.py").write_text("print('ran')")
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("wellfit: ") and err.count("\n") == 1
    assert sentence in err
    assert not (tmp_path / ".wellfit").exists()


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_help(capsys, words):
    assert main(words) == 0
    assert "wellfit run train.py" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "wellfit 0.1.0\n"


def setting(folder: Path, text: str) -> config.Config:
    (folder / "pyproject.toml").write_text(text)
    return config.load_config(folder)


def test_settings_are_read_from_the_nearest_project_that_has_them(tmp_path):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "pyproject.toml").write_text("[tool.other]\nx = 1\n")
    text = (
        '[tool.wellfit]\nselect = ["DAT"]\nignore = ["x"]\nfail-on = "note"\noverhead = 2\nquota = 9\n'
        "[tool.wellfit.rules.dead-units]\nshare = 0.5\n"
    )
    assert setting(tmp_path, text) == config.load_config(deep)
    assert config.load_config(deep) == config.Config(
        ("DAT",), ("x",), "note", 2.0, 9, {"dead-units": {"share": 0.5}}, tmp_path / "pyproject.toml"
    )


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("selct = []", 'unknown setting "selct" (did you mean "select"?)'),
        ("select = 'DAT'", '"select" is a list of names'),
        ("ignore = [1]", '"ignore" is a list of names'),
        ("fail-on = 'warning'", '"fail-on" is "never", "error" or "note"'),
        ("overhead = true", '"overhead" in'),
        ("overhead = nan", '"overhead" in'),
        ("quota = 0.5", '"quota" in'),
        ("rules = 3", '"rules" holds one table for each rule'),
        ("rules.dead-units = 3", '"rules" holds one table for each rule'),
        ("= 3", "is no valid TOML"),
        ('ignore = ["nosuch"]', 'no rule is called "nosuch"'),
        ("rules.dead-units.dead_shar = 0.8", 'dead-units has no threshold "dead_shar" (did you mean "dead_share"?)'),
        ("rules.dead-unit.dead_share = 0.8", 'an unknown rule "dead-unit" (did you mean "dead-units"?)'),
    ],
)
def test_wrong_settings_are_told(tmp_path, text, sentence):
    with pytest.raises(WellfitError) as caught:
        config.check_rules(setting(tmp_path, f"[tool.wellfit]\n{text}\n"))
    assert sentence in str(caught.value) and str(tmp_path) in str(caught.value)


def test_settings_that_are_no_table_are_told(tmp_path):
    with pytest.raises(WellfitError, match=r'"wellfit" is a table, \[tool.wellfit\], not 3, in .*pyproject.toml'):
        setting(tmp_path, "[tool]\nwellfit = 3\n")


def test_wrong_settings_stop_the_run_before_the_script(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.wellfit.rules.no-such-rule]\nx = 1\n")
    (tmp_path / "x.py").write_text("open('ran', 'w')")
    assert main(["run", "x.py"]) == 2
    assert (
        f'in [tool.wellfit] of {tmp_path / "pyproject.toml"}: thresholds are set for an unknown rule "no-such-rule"'
        in capsys.readouterr().err
    )
    assert not (tmp_path / "ran").exists()


def test_the_command_line_beats_the_settings(tmp_path, monkeypatch):
    from wellfit.cli import _run_options, _run_parser

    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.wellfit]\nselect = ["DAT"]\nignore = ["CRV"]\nfail-on = "note"\nquota = 7\n'
    )
    options = _run_options(["x.py", "--select", "theirs"], _run_parser("run"))[0]
    assert (options.words, options.select, options.ignore) == (["x.py", "--select", "theirs"], ("DAT",), ("CRV",))
    assert (options.fail_on, options.quota, options.overhead) == ("note", 7, 1.0)
    options = _run_options(
        ["--select=C, D", "--fail-on", "never", "--quota=3", "--all", "-m", "m", "-x"], _run_parser("run")
    )[0]
    assert (options.select, options.ignore, options.fail_on) == (("C", "D"), (), "never")
    assert (options.quota, options.words, options.all_shown) == (3, ["-m", "m", "-x"], True)
    assert _run_options(["--ignore", "E", "--", "--odd"], _run_parser("run"))[0].ignore == ("E",)


class Sample(Rule):
    """What it checks: whether units
    are dead.

    Why it hurts
    ------------
    They learn nothing.

    **Cure.** Lower the rate.

    When it is wrong
        Sparse nets.
    """

    code, name, family, summary = "FWD302", "dead-units", "forward", "units that give 0"
    fixes = (Fix("Divide the learning rate by 10", "lr", True), Fix("Use LeakyReLU"))
    consequences = ("plateau",)
    share: float = 0.6  # of the units
    # batches in a row;
    # one is chance
    batches: int = 20


def test_the_page_of_a_rule():
    assert sections(Sample) == {
        "What it checks": "whether units\nare dead.",
        "Why it hurts": "They learn nothing.",
        "Cure": "Lower the rate.",
        "When it is wrong": "Sparse nets.",
    }
    text = rule_text(Sample)
    for part in (
        "FWD302 dead-units",
        "Why it hurts\n  They learn nothing.",
        "share = 0.6  # of the units",
        "[tool.wellfit.rules.dead-units]",
        "batches = 20  # batches in a row; one is chance",
        "Divide the learning rate by 10 (safe)",
        "Use LeakyReLU (changes",
        "plateau",
        "# wellfit: ignore[dead-units]",
    ):
        assert part in text
    page = rule_json(Sample)
    assert json.loads(json.dumps(page)) == page
    assert page["thresholds"]["share"] == {"value": 0.6, "comment": "of the units"}


def test_rules_and_rule_as_tables(monkeypatch, capsys):
    monkeypatch.setattr(catalogue, "known_rules", lambda: ((Sample,), ()))
    assert main(["rules"]) == 0
    assert capsys.readouterr().out == "FWD302   dead-units  forward  units that give 0\n"
    assert main(["rules", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "dead-units"
    for name in ("dead-units", "fwd302"):
        assert main(["rule", name]) == 0
        assert capsys.readouterr().out.startswith("FWD302 dead-units\n")


RULE = """
from wellfit.rule import Rule
class {name}(Rule):
    code, name, family, summary = "{code}", "{rule}", "{family}", ""
    consequences = {consequences}
    least: int = 3
    def check(self, record):
        if record.step_count >= self.least:
            yield self.finding("It is `ill`.", severity="{severity}", step=2)
"""

TRAINS = """
import sys, time
import torch
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(300 if "--wait" in sys.argv else 30):
    if "--wait" in sys.argv:
        time.sleep(0.05)
        if "AAA001" in open("told").read():
            print("told while it ran")
            break
    loss = model(torch.randn(8, 3)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("done")
sys.exit(CODE)
"""


@pytest.fixture
def sick_run(tmp_path):
    """A folder with a script, and rules of our own that always find something, through an entry point."""
    (tmp_path / "site").mkdir()
    first = RULE.format(
        name="A", code="AAA001", rule="cause", family="data", consequences="('symptom',)", severity="error"
    )
    second = RULE.format(name="B", code="BBB001", rule="symptom", family="curve", consequences="()", severity="note")
    (tmp_path / "site" / "theirs.py").write_text(first + second)
    info = tmp_path / "site" / "theirs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[wellfit.rules]\nours = theirs\n")
    work = tmp_path / "work"
    work.mkdir()

    def run(*words: str, code: int = 0):
        (work / "train.py").write_text(TRAINS.replace("CODE", str(code)))
        before = f"sys.path.insert(1, {str(tmp_path / 'site')!r})\nsys.argv[1:] = {list(words)!r}"
        return python(f"{before}\nfrom wellfit.__main__ import program\nsys.exit(program())", cwd=work)

    return run


def test_findings_end_to_end(sick_run):
    """Live and final findings, formats, exit codes; then the recorded run judged again."""
    chosen = ("--select", "AAA,BBB")
    done = sick_run("run", *chosen, "--fail-on", "error", "train.py")
    assert (done.stdout, done.returncode) == ("done\n", 1)
    assert done.stderr.count("AAA001 cause") == 2  # in full, and in the summary
    assert "explains: symptom" in done.stderr and "BBB001" not in done.stderr
    done = sick_run("run", *chosen, "--fail-on", "error", "train.py", code=5)
    assert done.returncode == 5
    done = sick_run("runs")
    assert done.stdout.count("1 error") == 2 and "exit 5" in done.stdout
    done = sick_run("diagnose", "last", *chosen, "--format", "json", "--fail-on", "note")
    assert done.returncode == 1
    assert [(f["rule"], f["consequences"]) for f in json.loads(done.stdout)["findings"]] == [("cause", ["symptom"])]
    done = sick_run("diagnose", "last", "--select", "symptom", "--show-notes")
    assert done.returncode == 0 and "BBB001 symptom" in done.stdout
    done = sick_run("report", "last", "--output", "page.html")
    assert (done.stdout, done.returncode) == ("page.html\n", 0)


def test_a_sure_finding_is_told_while_the_script_runs(sick_run, tmp_path):
    """The script waits until our standard error, made a file here, holds the finding."""
    (tmp_path / "work" / "told").write_text("")
    theirs = tmp_path / "site" / "theirs.py"
    redirect = "import os\nos.dup2(os.open('told', os.O_WRONLY | os.O_APPEND), 2)\n"
    theirs.write_text(redirect + theirs.read_text())
    done = sick_run("run", "--select", "AAA,BBB", "train.py", "--wait")
    assert "told while it ran" in done.stdout
    assert (tmp_path / "work" / "told").read_text().count("cause at step 2") == 1


@pytest.mark.parametrize(
    "kind, mark", [("json", '"rule": "cause"'), ("sarif", '"ruleId": "AAA001"'), ("github", "::error ")]
)
def test_formats_go_to_standard_output(sick_run, kind, mark):
    done = sick_run("run", "--quiet", "--select", "AAA", "--format", kind, "train.py")
    assert done.stdout.startswith("done\n") and mark in done.stdout
    assert (done.stderr, done.returncode) == ("", 0)


def test_json_behind_the_output_of_the_script_is_warned_of(sick_run):
    warning = "wellfit: the json will follow what the script writes to standard output: --output FILE keeps it apart\n"
    done = sick_run("run", "--select", "AAA", "--format", "json", "train.py")
    assert done.stderr.startswith(warning)
    done = sick_run("run", "--select", "AAA", "--format", "json", "--output", "found.json", "train.py")
    assert "keeps it apart" not in done.stderr


def test_entry_points_that_are_no_rules_are_reported(sick_run, tmp_path):
    points = tmp_path / "site" / "theirs-1.dist-info" / "entry_points.txt"
    points.write_text("[wellfit.rules]\nours = theirs\nnotrule = os:path\nnorule = os:getcwd\ngone = gone\n")
    said = sick_run("rules").stderr
    assert '"notrule" (os:path) is switched off: the module posixpath defines no rule\n' in said
    assert '"norule" (os:getcwd) is switched off: <built-in function getcwd> is no subclass of wellfit.Rule\n' in said
    assert '"gone" (gone) is switched off: ModuleNotFoundError' in said
