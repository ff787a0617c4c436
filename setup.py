"""Builds the optional C libraries; everything else about the package is said in pyproject.toml.

They are plain shared libraries that ctypes loads: the kernel of the probe, and the coders and one-bit layers of slim
models. Without a compiler, or with one that does not know them (MSVC), wellfit installs all the same and uses their
twins in Python.
"""

import sys

from setuptools import Extension, setup  # type: ignore[import-untyped]
from setuptools.command.build_ext import build_ext  # type: ignore[import-untyped]

KERNEL = "wellfit/probe/native/"
BINARY = "wellfit/slim/native/"
CODERS = "wellfit/slim/wfz/coders/native/"
WINDOWS = sys.platform == "win32"
OPTIONS = [] if WINDOWS else ["-O3", "-g0", "-fvisibility=hidden"]


class BuildKernel(build_ext):  # type: ignore[misc]
    """Builds the libraries if it can; an install never fails for it."""

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            print(
                f"wellfit: the C libraries were not built ({error}); their twins in Python will be used",
                file=sys.stderr,
            )

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """No PyInit function: this is a library, not a Python module."""
        return []


setup(
    cmdclass={"build_ext": BuildKernel},
    ext_modules=[
        Extension(
            "wellfit.probe.native._kernel",
            sources=[KERNEL + "kernel.c"],
            depends=[KERNEL + "level.h", KERNEL + "lanes.h"],
            extra_compile_args=OPTIONS,
            libraries=[] if WINDOWS else ["m"],
            optional=True,
        ),
        Extension(
            "wellfit.slim.native._binary",
            sources=[BINARY + "binary.c"],
            depends=[BINARY + "binary_level.h"],
            # A product and a sum that become one rounding would differ between instruction sets.
            extra_compile_args=OPTIONS if WINDOWS else [*OPTIONS, "-ffp-contract=off"],
            libraries=[] if WINDOWS else ["m"],
            optional=True,
        ),
        Extension(
            "wellfit.slim.wfz.coders.native._coders",
            sources=[CODERS + "huffman.c", CODERS + "mixing.c", CODERS + "rans.c"],
            depends=[CODERS + "coders.h", CODERS + "mixer.h", CODERS + "range_coder.h"],
            extra_compile_args=OPTIONS,
            optional=True,
        ),
    ],
)
