"""A device, and a precision that it has. How much memory it has, and how much was taken."""
import ctypes
import os
import platform
import sys
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import torch

from runtime import fastest
from runtime.errors import InputError
from runtime.log import log
from runtime.processes import local_device

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4         # of malloc.h
TYPICAL = 1150, 20      # hidden units of a layer and batch size that are asked about where nothing is known of them
CLEARLY = 1.3           # so much faster must products in bf16 be: conversions to it and from it take time, too


class Compute(NamedTuple):
    """Where to compute and in which precision, resolved from the flags; `reason`: why `auto` chose that precision."""
    device: torch.device
    precision: str
    reason: str = ""

    def __str__(self):
        return f"{self.device} in {self.precision}" + (f" ({self.reason})" if self.reason else "")


def prepare(args, supports):
    """Resolve `--device` and `--precision` and seed every generator -> the flags with both resolved, Compute.

    supports: what the model supports; without "bf16" in it, `auto` does not take that. Where `args` has the width of a
    layer and the batch size, as in training, it is for those that `auto` decides on a CPU. Raises InputError for a
    device that is not here or a precision that it, or the model, does not have.
    """
    device = local_device(pick_device(args.device))
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)       # also for what is launched on the current device
    precision, reason = pick_precision(args.precision, device, "precision" in args.given, "bf16" in supports,
                                       getattr(args, "nhid", TYPICAL[0]), getattr(args, "batch_size", TYPICAL[1]))
    _set_switches(precision)
    if device == "cpu":
        keep_freed_memory()
    torch.manual_seed(args.seed)
    return args.replaced(device=device, precision=precision), Compute(torch.device(device), precision, reason)


def _set_switches(precision):
    torch.backends.cudnn.allow_tf32 = precision != "fp32"      # also for bf16: without it cuDNN uses no tensor cores
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


def keep_freed_memory():
    """Let the process keep the memory that it frees, where the C library is glibc: the next step asks for the same.

    Given back to the system, its pages would be cleared and mapped anew at every step.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)                   # no mapping of its own for a large array
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)     # bytes at the end of the heap that are kept


@contextmanager
def computing(compute):
    """Inside the block torch's device and switches are as `compute` has them; after it, as they were before."""
    switches = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    _set_switches(compute.precision)
    try:
        with torch.cuda.device(compute.device) if compute.device.type == "cuda" else nullcontext():
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = switches[0]
        torch.set_float32_matmul_precision(switches[1])


def pick_device(name):
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    other = torch.accelerator.current_accelerator()
    if other is not None:                # whatever else torch was built for runs the plain path
        here.setdefault(other.type, torch.accelerator.is_available())
    here["cpu"] = True
    if name == "auto":
        for kind, is_here in here.items():
            reason = is_here and kind == "cuda" and why_unusable(kind)
            if reason:
                log(f"| WARNING: {reason}; computing on the CPU")
            elif is_here:
                return kind
    kind, _, index = name.partition(":")
    if kind not in here or (index and not (kind == "cuda" and index.isdecimal())):
        raise InputError(f"unknown device {name!r}: use auto, cpu, cuda, cuda:N or mps")
    if not here[kind] or (index and int(index) >= torch.cuda.device_count()):
        raise InputError(f"device {name!r} is not available here; `--device auto` takes what is")
    reason = kind == "cuda" and why_unusable(name)
    if reason:
        raise InputError(f"{reason}; use --device cpu, or a torch that is built for this GPU")
    return name


def why_unusable(device):
    """Why nothing can be computed on a GPU that is there, in a few words, or None: it is tried."""
    try:
        (torch.ones(2, device=device) + 1).cpu()
    except RuntimeError as error:
        return f"torch {torch.__version__} cannot compute on {device} ({str(error).splitlines()[0][:120]})"
    return None


def pick_precision(name, device, asked, has_bf16=True, width=TYPICAL[0], rows=TYPICAL[1]):
    """The precision for `device`, and where that was left to this function, why -> str, str.

    One that is not `asked` for, but comes with a model from elsewhere, may give way to fp32. has_bf16: whether the
    model supports it. width, rows: hidden units of a layer, and batch size.
    """
    if name == "auto":
        return _automatic(device, has_bf16, width, rows)
    if name == "bf16" and not has_bf16:
        if asked:
            raise InputError("--precision bf16 is not supported by this --model and --softmax; use fp32 or auto")
        return "fp32", "this model does not support the bf16 of its checkpoint"
    if name == "bf16" and device.startswith("cuda") and not has_tensor_cores(device):
        if asked:
            raise InputError("--precision bf16 needs a GPU of compute capability 8.0 or later; use fp32 or auto")
        return "fp32", "this GPU does not have the bf16 of the checkpoint"
    if name == "tf32" and not device.startswith("cuda"):
        if asked:
            raise InputError(f"--precision tf32 is for CUDA, not for {device!r}; use fp32, bf16 or auto")
        return "fp32", f"{device} does not have the tf32 of the checkpoint"
    return name, ""


def _automatic(device, has_bf16, width, rows):
    """The fastest precision that learns like fp32."""
    if device.startswith("cuda"):
        return ("tf32", "auto") if has_tensor_cores(device) else ("fp32", "auto: this GPU has no tf32")
    if device != "cpu":
        return "fp32", "auto"
    if not has_bf16:
        return "fp32", "auto: this model does not support bf16"
    instructions = bf16_instructions()
    if not instructions:
        return "fp32", "auto: no bf16 instructions in use"
    speedup = bf16_speedup(width, rows)
    return ("bf16" if speedup >= CLEARLY else "fp32",
            f"auto: with {instructions} products in bf16 are {speedup:.2f} times as fast as in fp32")


def bf16_speedup(width, rows):
    """How many times as fast as in fp32 a recurrent layer's matrix products are in bf16 on this CPU.

    width: hidden units, rows: batch size. Two products are timed, with a matrix (4 · width, width): a large one, of
    which forward and backward pass take four for every token (input gates, their gradient, those of both weights), and
    that of a time step with the state, of which they take two. The first time on a machine takes about a fifth of a
    second, later it is remembered (`runtime.fastest`).
    """
    width, rows = min(max(width, 64), 2048), min(max(rows, 1), 256)
    total = dict.fromkeys((torch.float32, torch.bfloat16), 0.0)
    for tokens, count in (256, 4), (rows, 2):
        products = {dtype: partial(torch.matmul, torch.full((tokens, width), 0.5, dtype=dtype),
                                   torch.full((4 * width, width), 0.5, dtype=dtype).t()) for dtype in total}
        times = fastest.milliseconds(f"product of ({tokens}, {width}) and ({width}, {4 * width}) in fp32 and bf16",
                                     {str(dtype): product for dtype, product in products.items()}, seconds=0.03)
        for dtype in total:
            total[dtype] += count * times[str(dtype)] / tokens
    return total[torch.float32] / total[torch.bfloat16]


def has_tensor_cores(device):
    """Whether a GPU has tf32 and bf16 (compute capability 8.0 and later)."""
    return torch.cuda.is_available() and torch.cuda.get_device_capability(device)[0] >= 8


def bf16_instructions():
    """The instructions with which this CPU multiplies bfloat16 matrices, or "".

    Those that oneDNN, which multiplies, has been told not to use do not count: it would emulate them.
    """
    if not torch.backends.mkldnn.is_available():
        return ""
    if platform.machine() in ("aarch64", "arm64"):
        return "Arm BF16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ""
    limit = (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL").upper()
    if _has("_is_amx_tile_supported") and (limit in ("ALL", "DEFAULT") or "AMX" in limit):
        return "AMX"
    allowed = limit in ("ALL", "DEFAULT") or any(part in limit for part in ("BF16", "FP16", "AMX", "AVX10"))
    return "AVX512_BF16" if _has("_is_avx512_bf16_supported") and allowed else ""


def _has(question):
    """What torch knows of this CPU; its older versions do not have every question."""
    return getattr(torch.cpu, question, lambda: False)()


def peak_memory_mib(device):
    """Largest memory held so far, in MiB: of the GPU's allocator on CUDA, else of the process."""
    if str(device).startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def check_memory(parameters, device):
    """Raise InputError if a model of so many parameters can never be trained in the memory of `device`."""
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return
    needed = 2 * 4 * parameters  # weights and gradients in fp32, to begin with
    if needed > memory:
        raise InputError(f"the model has {parameters:,} parameters and needs more than {needed / 2**30:.0f} GiB, "
                         f"{device} has {memory / 2**30:.0f}; use a smaller --emsize, --nhid or vocabulary")
