"""The command line of what can be done with a `.wfz` file: `wellfit slim inspect|bench|export|expand`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from wellfit.errors import WellfitError
from wellfit.parser import Parser
from wellfit.slim.target import bytes_in


def _inspect(words: list[str]) -> int:
    parser = _parser("inspect", "Tell what is in a .wfz file, and check all of it.")
    parser.add_argument("--format", default="text", help="text or json")
    given = parser.parse_args(words)
    from wellfit.slim.file_verbs.inspect import run_inspect

    return run_inspect(given.file, given.format, _bytes(given.max_bytes))


def _bench(words: list[str]) -> int:
    parser = _parser("bench", "Measure how long a .wfz file takes to read and decode, and a call of its network.")
    _add_model(parser)
    add = parser.add_argument
    add("--batch", metavar="N", action="append", default=[], help="samples in a call; can be repeated (default 1, 32)")
    add("--seconds", metavar="S", default="1", help="to time each batch size (default 1)")
    add("--format", default="text", help="text or json")
    given = parser.parse_args(words)
    from wellfit.slim.file_verbs.bench import BenchOptions, run_bench

    return run_bench(BenchOptions(
        given.file, given.model, given.inputs, [whole("--batch", text, 65536) for text in given.batch],
        _seconds(given.seconds), given.format, _bytes(given.max_bytes),
    ))  # fmt: skip


def _expand(words: list[str]) -> int:
    parser = _parser("expand", "Write the tensors of a .wfz file as plain safetensors.")
    parser.add_argument("--to", type=Path, metavar="FILE", help="default: beside it, with the suffix .safetensors")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    given = parser.parse_args(words)
    from wellfit.slim.file_verbs.expand import run_expand

    return run_expand(given.file, given.to, given.force, _bytes(given.max_bytes))


def _export(words: list[str]) -> int:
    parser = _parser("export", "Write the network of a .wfz file as ONNX, or as a program of torch.export.")
    _add_model(parser)
    add = parser.add_argument
    add("--to", type=Path, metavar="FILE", help="FILE.onnx, or FILE.pt2 for torch.export.load")
    add("--force", action="store_true", help="write over a file that is there")
    given = parser.parse_args(words)
    from wellfit.slim.file_verbs.export import ExportOptions, run_export

    return run_export(
        ExportOptions(given.file, given.to, given.model, given.inputs, given.force, _bytes(given.max_bytes))
    )


VERBS: dict[str, Callable[[list[str]], int]] = {
    "inspect": _inspect, "bench": _bench, "export": _export, "expand": _expand,
}  # fmt: skip


def whole(option: str, text: str, most: int) -> int:
    """A whole number from 1 on; WellfitError if it is none."""
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= most:
        raise WellfitError(f"{option} is a whole number from 1 to {most}, not {text}")
    return int(text)


def _parser(verb: str, description: str) -> Parser:
    """What all verbs take."""
    parser = Parser(f"slim {verb}", description)
    parser.add_argument("file", type=Path, metavar="FILE.wfz")
    parser.add_argument("--max-bytes", metavar="SIZE", help="that the tensors may take in memory, as 100MB "
        "(default: 10,000 times the file, at least 64 MiB)")  # fmt: skip
    return parser


def _add_model(parser: Parser) -> None:
    parser.add_argument("--model", metavar="MODULE:NAME", help="the function or class that makes the network")
    parser.add_argument("--inputs", metavar="FILE|SHAPE", help="an example batch: .npy, .safetensors, or the shape of "
        "a sample: 1x28x28, or 20@1000 for whole numbers below 1000")  # fmt: skip


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    found = bytes_in(text)
    if not found:
        raise WellfitError(f"--max-bytes is a size such as 100MB or 4GiB, or a number of bytes, not {text}")
    return found


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600 or math.isnan(seconds):
        raise WellfitError(f"--seconds is a number from 0 to 3600, not {text}")
    return seconds
