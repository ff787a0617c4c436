"""Coders of small numbers: each module has `encode` and `decode`; see docs/wfz.md for what the bytes mean.

- `huffman`: the fastest to decode.
- `rans`: near the entropy of the symbols' frequencies.
- `mixing`: smaller still, by what is known of a weight matrix; the slowest.
"""

from wellfit.slim.wfz.coders import huffman, mixing, rans

__all__ = ["huffman", "mixing", "rans"]
