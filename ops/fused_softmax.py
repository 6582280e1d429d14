"""The softmax over logits in one kernel, on a CPU or a GPU.

N rows, V words.
"""
import warnings
from functools import cache

import torch

from ops import compiled
from ops.compiled import cuda_kernel

THREADS = 512
TYPES = {torch.float32: "softmax_float32", torch.bfloat16: "softmax_bfloat16"}


def fused_softmax(logits, bias, targets, dtype=None):
    """Log-probabilities of the targets (N,), and of -log p the gradient at the targets (N,) and elsewhere (N, V).

    logits (N, V) without their bias (V,), fp32 or, on a CPU, bf16; targets (N,). dtype: of the (N, V) array, which is
    zero at the targets; where it is None, so is the array, and where it is that of the logits, the array takes their
    place.
    """
    slope = None if dtype is None else logits if dtype == logits.dtype else torch.empty_like(logits, dtype=dtype)
    logprobs, at_target = bias.new_empty(len(logits)), bias.new_empty(len(logits))
    if logits.is_cpu:
        types = [str(each).removeprefix("torch.") for each in (logits.dtype, dtype or logits.dtype)]
        function = getattr(compiled.library("softmax"), "softmax_{}_{}".format(*types))
        compiled.call(function, *logits.shape, logits, bias.contiguous(), targets.contiguous(), logprobs, at_target,
                      slope)
    else:
        nothing = logits.new_empty(0)             # a null pointer, to the kernel
        compiled.launch("softmax", TYPES[dtype or torch.float32], len(logits) * THREADS, logits, bias, targets,
                        logprobs, at_target, nothing if slope is None else slope, logits.size(1), block=THREADS)
    return logprobs, at_target, slope


def kernel_on(device):
    """`fused_softmax` if it can be used on `device`, else None."""
    if device.type == "cpu":
        return fused_softmax if compiled.library("softmax") else None
    return fused_softmax if device.type == "cuda" and available(device.index or 0) else None


@cache
def available(index):
    """Whether the kernel can be compiled for the GPU of this number and computes there what torch does.

    The answer is found once. Where it is no, a warning says why.
    """
    if None in [cuda_kernel("softmax", name, index) for name in TYPES.values()]:
        return False
    try:
        with torch.random.fork_rng([index]):
            _check(torch.device("cuda", index))
    except Exception as error:
        warnings.warn(f"the softmax is computed without its own kernel: {' '.join(str(error).split())[:200]}",
                      stacklevel=2)
        return False
    return True


def _check(device):
    logits = 4 * torch.randn(5, 1111, device=device)
    bias, targets = torch.randn(1111, device=device), torch.randint(1111, (5,), device=device)
    expected = (logits + bias).double().log_softmax(1)
    for dtype, tolerance in ((None, None), (torch.bfloat16, 4e-3), (torch.float32, 1e-5)):
        logprobs, at_target, slope = fused_softmax(logits.clone(), bias, targets, dtype)
        chosen = expected.gather(1, targets[:, None])
        pairs = [(logprobs, chosen[:, 0]), (at_target, chosen[:, 0].exp() - 1)]
        if dtype:
            pairs.append((slope, expected.exp().scatter(1, targets[:, None], 0)))
        for computed, like in pairs:
            torch.testing.assert_close(computed.double(), like, rtol=tolerance or 1e-5, atol=1e-6)
