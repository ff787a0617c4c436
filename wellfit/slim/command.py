"""The command line of `wellfit slim`: a script to make small, or a file to look at."""

from __future__ import annotations

import argparse
from pathlib import Path

from wellfit.config import Asked, asked_of, load_config
from wellfit.errors import WellfitError
from wellfit.parser import Parser, split
from wellfit.slim.file_verbs.command import VERBS, whole

_DESCRIPTION = """\
Make a script's network small. The script is run as it is, then under overrides that prune its weights, let them share a
few values and let the dense network teach, until the smallest file is found that loses no more than it may; or, for
targets of time, that cut channels and layers away or put cheaper ones in their place. Each file is read again and
judged by the script's own evaluation. Options of wellfit stand before the script.
"""

_AFTER = """\
wellfit slim --model pkg.mod:build --weights w.safetensors --inputs 1x28x28
                                   what needs no script and no training
wellfit slim inspect FILE.wfz      what is in a file, tensor by tensor
wellfit slim bench FILE.wfz        how long it takes to read; with --model, a call of its network
wellfit slim export FILE.wfz       its network as ONNX or as a program of torch.export
wellfit slim expand FILE.wfz       its tensors as plain safetensors
(a script of such a name: wellfit slim ./inspect)

exit codes: 0 the target is met; 1 it is not, and the best that was found is given; 2 the command, the plan or the
script does not fit; where the script fails as it is, its own.
"""


def run_command(words: list[str]) -> int:
    """Run `wellfit slim`; the exit code.

    Raises:
        WellfitError: an option is wrong, or what was asked for cannot be done.
    """
    if words and words[0] in VERBS:
        return VERBS[words[0]](words[1:])
    return _drive(words)


def _parser() -> Parser:
    parser = Parser(
        "slim", _DESCRIPTION, usage="wellfit slim [options] SCRIPT.py|-m MODULE|COMMAND [its own arguments]",
        epilog=_AFTER, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--target", metavar="WHAT", default="size", help="size: as small as can be (default); 50x; 30kB; "
        "latency: as fast as can be; 2ms; 3x-faster")  # fmt: skip
    add("--batch", metavar="N", default="1", help="samples in a call, by which targets of time are meant (default 1)")
    add("--keep-acc", metavar="POINTS", default="1", help="may be lost: points of accuracy; percent of another figure "
        "(default 1)")  # fmt: skip
    add("--budget", metavar="TIME", default="10m", help="for everything, as 90s, 10m, 1h (default 10m)")
    add("--to", metavar="FILE.wfz", type=Path, help="the file to write (default: named after the script)")
    add("--from", metavar="FILE", type=Path, dest="start", help="begin with the weights of this checkpoint "
        "(.pt, .safetensors, .wfz); the script is not run as it is")  # fmt: skip
    add("--metric", metavar="TEXT", help="judge by the last number that the script prints behind TEXT")
    add("--seeds", metavar="K", default="1", help="run the chosen setting K times; tell mean and spread")
    add(
        "--control",
        action="store_true",
        help="train the dense network on as well, as the slim one is (with each seed): a fair rival",
    )
    add("--plan", metavar="FILE", type=Path, help="run this plan, and nothing else")
    add("--only-plan", metavar="FILE", type=Path, help="write the plan, to be edited; try nothing")
    add("--override", metavar="NAME=VALUE", action="append", default=[], help="change all runs: `wellfit overrides`")
    add("--quiet", action="store_true", help="say nothing on standard error")
    add("--select", metavar="RULES", help="judge what came of it by these: names, codes or prefixes, e.g. slim-no-op")
    add("--ignore", metavar="RULES", help="the same, to leave out")
    add("--model", metavar="MODULE:NAME", help="without a script: the function or class that makes the model; "
        "nothing is trained, see docs/slim/model.md")  # fmt: skip
    add("--weights", metavar="FILE", type=Path, help="its trained weights (.safetensors, .pt, .wfz)")
    add(
        "--inputs", metavar="FILE|SHAPE", help="an example batch: .npy, .safetensors, or the shape of a sample: 1x28x28"
    )
    add("--check", metavar="MODULE:NAME", help="a function of the model that gives its accuracy, or another number")
    add("--methods", metavar="NAMES", help="use these only. For a script: 'prune, share' (default), prune, share, "
        "'prune 2:4', 'prune 2:4, share', int8 (int2 to int8), 'prune, int8', binarise, 'binarise xnor'; "
        "with --model: fold,cut,svd,tucker,cp,int8,prune,share,grid,round")  # fmt: skip
    return parser


def _drive(words: list[str]) -> int:
    from wellfit.slim.drive.options import SlimOptions, budget_of, method_of
    from wellfit.slim.target import Target

    parser = _parser()
    own, command = split(words, parser)
    given = parser.parse_args(own)
    if given.model is not None:
        return _from_model(given, command, words)
    for name in ("weights", "inputs", "check"):
        if getattr(given, name) is not None:
            raise WellfitError(f"--{name} goes with --model, where no script is run")
    if not command:
        raise WellfitError("slim needs a script or command, such as: wellfit slim train.py")
    if given.plan is not None and given.only_plan is not None:
        raise WellfitError("--plan runs a plan and --only-plan writes one: leave one")
    options = SlimOptions(
        command, Target.of(given.target), _points(given.keep_acc), budget_of(given.budget), given.to, given.start,
        given.metric, whole("--seeds", given.seeds, 100), given.plan, given.only_plan, tuple(given.override),
        given.quiet, tuple(words), whole("--batch", given.batch, 65536), _asked(given), method_of(given.methods),
        given.control,
    )  # fmt: skip
    from wellfit.slim.drive import run_slim

    return run_slim(options)


def _from_model(given: argparse.Namespace, command: list[str], words: list[str]) -> int:
    from wellfit.slim.from_model.launch import ModelOptions, run_model

    if command:
        raise WellfitError(f"--model makes the model, so no script is run: leave {command[0]!r} out")
    for name, default in (
        ("start", None),
        ("metric", None),
        ("seeds", "1"),
        ("batch", "1"),
        ("override", []),
        ("control", False),
        ("budget", "10m"),
    ):
        if getattr(given, name) != default:
            name = "from" if name == "start" else name
            raise WellfitError(f"--{name} is for scripts: without one nothing is trained")
    if given.weights is None:
        raise WellfitError("--model wants the trained weights: --weights FILE (.safetensors, .pt or .wfz)")
    if given.plan is not None and given.only_plan is not None:
        raise WellfitError("--plan runs a plan and --only-plan writes one: leave one")
    return run_model(ModelOptions(
        given.model, given.weights, given.inputs, given.check, given.target, _points(given.keep_acc),
        given.methods.split(",") if given.methods else None, given.plan, given.only_plan,
        given.to or given.weights.with_suffix(".slim.wfz" if given.weights.suffix == ".wfz" else ".wfz"), given.quiet,
        _asked(given), tuple(words),
    ))  # fmt: skip


def _asked(given: argparse.Namespace) -> Asked:
    """The rules that judge what comes of it.

    Raises:
        WellfitError: there is no such rule: told before the work, not after it.
    """
    from wellfit.catalogue import names_of, rules

    asked = asked_of(load_config(Path.cwd()), given.select, given.ignore)
    rules(asked.select, asked.thresholds)
    names_of(asked.ignore)
    return asked


def _points(text: str) -> float:
    try:
        points = float(text)
    except ValueError:
        points = -1.0
    if not 0 <= points <= 100:
        raise WellfitError(f"--keep-acc is a number of points from 0 to 100, not {text}")
    return points
