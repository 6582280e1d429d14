"""C++ and CUDA compiled at first use and kept: no build step, and nothing lost but time where there is no compiler.

The sources are in ops/kernels/. C++ is compiled by the system's compiler and kept in the cache's folder, CUDA by NVRTC,
which comes with torch. CUDA goes through torch's private `torch.cuda._compile_kernel` and not through Triton, for which
the kernels would have to be written again, and which needs a C compiler on the machine.
"""
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from contextlib import contextmanager, suppress
from ctypes import c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch

from runtime.paths import default_cache

SOURCES = Path(__file__).resolve().parent / "kernels"
PROCESSORS = {"AVX512": ["-march=x86-64-v4", "-mprefer-vector-width=512"], "AVX2": ["-march=x86-64-v3"]}
# Errors of the C library's functions and floating-point exceptions are not looked at; all else stays as IEEE has it.
FLAGS = ["-O3", "-std=c++17", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]


@cache
def library(name):
    """`ops/kernels/NAME.cpp` as a ctypes library, or None where it cannot be compiled or AWD_LSTM_NATIVE is 0."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not compiler or os.environ.get("AWD_LSTM_NATIVE") == "0":
        return None
    source = SOURCES / f"{name}.cpp"
    flags = [*FLAGS, *PROCESSORS.get(torch.backends.cpu.get_cpu_capability(), [])]
    texts = [path.read_bytes() for path in (source, *sorted(SOURCES.glob("*.h")))]
    key = hashlib.sha256(repr((texts, compiler, flags, platform.machine())).encode()).hexdigest()
    compiled = Path(default_cache()) / f"{name}-{key[:16]}.so"
    with suppress(OSError):                  # not there yet, or damaged
        return ctypes.CDLL(str(compiled))
    try:
        compiled.parent.mkdir(parents=True, exist_ok=True)
        _compile(compiler, flags, source, compiled)
        return ctypes.CDLL(str(compiled))
    except (OSError, subprocess.SubprocessError) as error:
        reason = (f"{compiled.parent}: {error.strerror or error}; $AWD_LSTM_CACHE names another folder"
                  if isinstance(error, OSError) and error.filename != compiler else f"{compiler} does not compile them")
        _warn_once(f"computing without the compiled kernels, more slowly ({reason})")
        return None


@cache
def _warn_once(message):
    """For all libraries: Python's own memory of what it has said is cleared whenever somebody catches warnings."""
    warnings.warn(message, stacklevel=2)


def call(function, *arguments):
    """Call a function of a `library`: whole numbers go in with 64 bits, of tensors where they are, of None nothing."""
    function(*(c_int64(each) if isinstance(each, int) else c_void_p(each if each is None else each.data_ptr())
               for each in arguments))


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


@cache
def cuda_kernel(source, name, index):
    """The kernel `name` in ops/kernels/`source`.cu on the GPU number `index`, or None."""
    try:
        with torch.cuda.device(index), _nvrtc():
            text = (SOURCES / f"{source}.cu").read_text(encoding="utf-8")
            return torch.cuda._compile_kernel(text, name)
    except Exception as error:  # of a driver, a compiler or a version: torch computes the same
        warnings.warn(f"computing without the kernel {name}: {' '.join(str(error).split())[:200]}", stacklevel=2)
        return None


def launch(source, name, threads, *arguments, block=256):
    """Run a kernel of a thread for each of so many elements on the GPU of its first argument -> whether it was run.

    False on other devices, for other types than float32, and where there is no such kernel.
    """
    first = arguments[0]
    if not first.is_cuda or first.dtype != torch.float32:
        return False
    kernel = cuda_kernel(source, name, first.device.index)
    if kernel is None:
        return False
    with torch.cuda.device_of(first):
        kernel((-(-threads // block), 1, 1), (block, 1, 1), list(arguments))
    return True


@contextmanager
def _nvrtc():
    """Help torch find NVRTC where CUDA came with wheels: it asks for a toolkit, of which the kernels need nothing."""
    with suppress(ImportError):
        from cuda.pathfinder import load_nvidia_dynamic_lib
        with suppress(Exception):           # torch may find it elsewhere
            load_nvidia_dynamic_lib("nvrtc")
    from torch.utils import cpp_extension
    home = cpp_extension.CUDA_HOME
    cpp_extension.CUDA_HOME = home or os.path.dirname(os.path.abspath(__file__))
    try:
        yield
    finally:
        cpp_extension.CUDA_HOME = home
