"""Packing a page: one HTML file with its styles, scripts and data in it, that asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources


def packed(template: str, styles: Sequence[str], scripts: Sequence[str], pieces: Mapping[str, str]) -> str:
    """A page with everything in it; its content security policy allows these styles and scripts and nothing else.

    Args:
        template: HTML with `{{policy}}`, `{{styles}}`, `{{scripts}}` and the keys of `pieces`.
        styles: texts of style sheets.
        scripts: texts of scripts.
        pieces: HTML by key, harmless already.
    """
    policy = (
        f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes(styles)}; "
        "base-uri 'none'; form-action 'none'"
    )
    filled = {
        **pieces,
        "policy": policy,
        "styles": "\n".join(f"<style>{style}</style>" for style in styles),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    # Split once, so that nothing inside a piece is ever taken for another placeholder.
    halves = template.split("{{")
    return halves[0] + "".join(filled[key] + rest for key, rest in (half.split("}}", 1) for half in halves[1:]))


def part(package: str, name: str) -> str:
    """A file beside a package's modules with plain line ends: a hash must not depend on how it was checked out."""
    text = resources.files(package).joinpath(*name.split("/")).read_text(encoding="utf-8")
    return text.replace("\r\n", "\n")


def _hashes(parts: Sequence[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
