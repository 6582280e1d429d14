"""CUDA kernels from kernels/NAME.cu, compiled at first use by the compiler that comes with torch's CUDA (NVRTC).

No build step, no packages besides torch. Where a kernel cannot be had, whoever asks computes in torch: the answer is
found once per process and GPU, and a warning says why it is no.
"""
import os
import warnings
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch


@cache
def function(source, name, index):
    """The kernel `name` in kernels/`source`.cu on the GPU number `index`, or None."""
    try:
        with torch.cuda.device(index), _compiler():
            text = Path(__file__).with_name("kernels").joinpath(f"{source}.cu").read_text(encoding="utf-8")
            return torch.cuda._compile_kernel(text, name)
    except Exception as error:  # whatever is amiss with a driver, a compiler or a version: there is another way
        warnings.warn(f"computing without the kernel {name}: {' '.join(str(error).split())[:200]}", stacklevel=2)
        return None


def launch(source, name, threads, *arguments, block=256):
    """Run a kernel of a thread for each of so many elements on the GPU of its first argument -> whether it was run.

    False on other devices, for other types than float32, and where there is no such kernel.
    """
    first = arguments[0]
    if not first.is_cuda or first.dtype != torch.float32:
        return False
    kernel = function(source, name, first.device.index)
    if kernel is None:
        return False
    with torch.cuda.device_of(first):
        kernel((-(-threads // block), 1, 1), (block, 1, 1), list(arguments))
    return True


@contextmanager
def _compiler():
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
