"""Where to compute, and in what numbers: a device and a precision that are there."""
import os

import torch

from errors import InputError
from team import local_device


def prepare(args):
    """Resolve `args.device` and `args.precision`, seed every generator -> torch.device.

    Raises InputError for a device that is not here or a precision that it does not have.
    """
    args.device = local_device(pick_device(args.device))
    if args.device.startswith("cuda:"):
        torch.cuda.set_device(args.device)       # also for what is launched on the current device
    args.precision = pick_precision(args.precision, args.device, "precision" in args.given)
    torch.backends.cudnn.allow_tf32 = args.precision == "tf32"
    torch.set_float32_matmul_precision("high" if args.precision == "tf32" else "highest")
    torch.manual_seed(args.seed)
    return torch.device(args.device)


def pick_device(name):
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    other = torch.accelerator.current_accelerator()
    if other is not None:                # whatever else torch was built for runs the plain path
        here.setdefault(other.type, torch.accelerator.is_available())
    here["cpu"] = True
    if name == "auto":
        return next(kind for kind, found in here.items() if found)
    kind, _, index = name.partition(":")
    if kind not in here or (index and not (kind == "cuda" and index.isdecimal())):
        raise InputError(f"unknown device {name!r}: use auto, cpu, cuda, cuda:N or mps")
    if not here[kind] or (index and int(index) >= torch.cuda.device_count()):
        raise InputError(f"device {name!r} is not available here; `--device auto` takes what is")
    return name


def pick_precision(name, device, asked):
    """The precision for `device`; one that is not `asked` for, but comes with a model from elsewhere, may give way."""
    if name == "tf32" and not device.startswith("cuda"):
        if asked:
            raise InputError(f"--precision tf32 is for CUDA, not for {device!r}; use fp32, bf16 or auto")
        return "fp32"
    if name == "auto" and device.startswith("cuda"):
        return "tf32" if has_tf32(device) else "fp32"
    if name == "auto":
        return "bf16" if device == "cpu" and has_matrix_units() else "fp32"
    return name


def has_tf32(device):
    return torch.cuda.is_available() and torch.cuda.get_device_capability(device)[0] >= 8


def has_matrix_units():
    """Whether this CPU multiplies bfloat16 matrices in units of their own (AMX), and oneDNN is allowed to use them."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    supported = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return torch.backends.mkldnn.is_available() and supported() and (limit in ("ALL", "DEFAULT") or "AMX" in limit)
