"""Builds the optional C kernels; everything else about the package is said in pyproject.toml.

A kernel is a plain shared library that ctypes loads. Without a compiler, or with one that does not know it (MSVC),
wellfit installs all the same and uses the kernel's twin in torch.
"""

import sys

from setuptools import Extension, setup  # type: ignore[import-untyped]
from setuptools.command.build_ext import build_ext  # type: ignore[import-untyped]

FOLDER = "wellfit/probe/native/"
SLIM = "wellfit/slim/native/"


class BuildKernel(build_ext):  # type: ignore[misc]
    """Builds the kernel if it can; an install never fails for it."""

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:
            print(f"wellfit: the C kernel was not built ({error}); the torch twin will be used", file=sys.stderr)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """No PyInit function: this is a library, not a Python module."""
        return []


setup(
    cmdclass={"build_ext": BuildKernel},
    ext_modules=[
        Extension(
            "wellfit.probe.native._kernel",
            sources=[FOLDER + "kernel.c"],
            depends=[FOLDER + "level.h", FOLDER + "lanes.h"],
            extra_compile_args=[] if sys.platform == "win32" else ["-O3", "-g0", "-fvisibility=hidden"],
            libraries=[] if sys.platform == "win32" else ["m"],
            optional=True,
        ),
        Extension(
            "wellfit.slim.native._binary",
            sources=[SLIM + "binary.c"],
            depends=[SLIM + "binary_level.h"],
            # A product and a sum that become one rounding would differ between instruction sets.
            extra_compile_args=[]
            if sys.platform == "win32"
            else ["-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=off"],
            libraries=[] if sys.platform == "win32" else ["m"],
            optional=True,
        ),
    ],
)
