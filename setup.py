"""Builds the optional C libraries; everything else about the package is said in pyproject.toml.

They are plain shared libraries that ctypes loads: the kernel of the probe, the coders of slim files and the products of
binary layers. Without a compiler, or with one that does not know them (the probe's: MSVC), wellfit installs all the
same and uses their twins in torch, numpy and Python.
"""

import sys

from setuptools import Extension, setup  # type: ignore[import-untyped]
from setuptools.command.build_ext import build_ext  # type: ignore[import-untyped]

PROBE = "wellfit/probe/native/"
CODERS = "wellfit/slim/wfz/coders/native/"
BINARY = "wellfit/slim/native/"
WINDOWS = sys.platform == "win32"
OPTIONS = [] if WINDOWS else ["-O3", "-g0", "-fvisibility=hidden"]
MATHEMATICS = [] if WINDOWS else ["m"]


class BuildLibraries(build_ext):  # type: ignore[misc]
    """Builds the libraries if it can; an install never fails for it."""

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            print(f"wellfit: the C libraries were not built ({error}); their twins will be used", file=sys.stderr)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """No PyInit function: these are libraries, not Python modules."""
        return []


setup(
    cmdclass={"build_ext": BuildLibraries},
    ext_modules=[
        Extension(
            "wellfit.probe.native._kernel",
            sources=[PROBE + "kernel.c"],
            depends=[PROBE + "level.h", PROBE + "lanes.h"],
            extra_compile_args=OPTIONS,
            libraries=MATHEMATICS,
            optional=True,
        ),
        Extension(
            "wellfit.slim.wfz.coders.native._coders",
            sources=[CODERS + "huffman.c", CODERS + "mixing.c", CODERS + "rans.c"],
            depends=[CODERS + name for name in ("coders.h", "known.h", "mixer.h", "range_coder.h")],
            extra_compile_args=OPTIONS,
            optional=True,
        ),
        Extension(
            "wellfit.slim.native._binary",
            sources=[BINARY + "binary.c"],
            depends=[BINARY + "binary_level.h"],
            # A product and a sum that become one rounding would differ between instruction sets.
            extra_compile_args=[*OPTIONS, *([] if WINDOWS else ["-ffp-contract=off"])],
            libraries=MATHEMATICS,
            optional=True,
        ),
    ],
)
