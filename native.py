"""C++ compiled at first use and kept: no build step, and nothing lost where there is no compiler but time."""
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

from corpus_cache import default_cache

SOURCES = Path(__file__).resolve().parent / "kernels"
PROCESSORS = {"AVX512": ["-march=x86-64-v4", "-mprefer-vector-width=512"], "AVX2": ["-march=x86-64-v3"]}
# Errors of the C library's functions and floating-point exceptions are not looked at; all else stays as IEEE has it.
FLAGS = ["-O3", "-std=c++17", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]


@cache
def library(name):
    """`kernels/NAME.cpp` as a ctypes library, or None where it cannot be compiled or AWD_LSTM_NATIVE is 0."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not compiler or os.environ.get("AWD_LSTM_NATIVE") == "0":
        return None
    source = SOURCES / f"{name}.cpp"
    flags = [*FLAGS, *PROCESSORS.get(torch.backends.cpu.get_cpu_capability(), [])]
    try:
        key = hashlib.sha256(repr((source.read_bytes(), compiler, flags, platform.machine())).encode()).hexdigest()
        compiled = Path(default_cache()) / f"{name}-{key[:16]}.so"
        if not compiled.exists():
            compiled.parent.mkdir(parents=True, exist_ok=True)
            _compile(compiler, flags, source, compiled)
        return ctypes.CDLL(str(compiled))
    except (OSError, subprocess.SubprocessError):
        return None


def _compile(compiler, flags, source, target):
    """Compile in a folder of its own and rename: two runs that start together do not meet."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        objects, shared = f"{folder}/kernel.o", f"{folder}/kernel.so"
        quiet = {"check": True, "capture_output": True, "timeout": 120}
        try:
            # OpenMP is compiled in but not linked: the loader then takes torch's, and both share one pool of threads.
            subprocess.run([compiler, *flags, "-fopenmp", "-c", str(source), "-o", objects], **quiet)
            subprocess.run([compiler, "-shared", objects, "-o", shared], **quiet)
            ctypes.CDLL(shared)
        except (OSError, subprocess.SubprocessError):
            subprocess.run([compiler, *flags, "-shared", str(source), "-o", shared], **quiet)
        os.replace(shared, target)
