"""ids → windows, and hidden states. T window length, B batch size, L stream length, N = T·B."""
import torch

from runtime.errors import InputError


def batchify(data, bsz, args):
    """Cut a text (tokens,) into `bsz` streams that are read in parallel -> (L, B) on `args.device`.

    The last tokens % B tokens are left out. Raises InputError when a stream would have fewer than two tokens:
    nothing could be predicted.
    """
    length = data.size(0) // bsz
    if length < 2:
        raise InputError(f"{data.size(0)} tokens are too few for a batch size of {bsz}; "
                         f"use a smaller batch size (at most {data.size(0) // 2}) or more text")
    streams = data[:length * bsz].view(bsz, length).t()              # (L, B)
    return streams.to(getattr(args, "device", None) or streams.device)


def get_batch(source, i, args, seq_len=None, evaluation=False):
    """Window of `source` (L, B) from row `i`: inputs (T, B) and the words that follow them (N,).

    T is `seq_len` (default `args.bptt`) or what is left. `evaluation` is accepted for callers of the published
    signature: windows are the same in training and evaluation.
    """
    seq_len = min(args.bptt if seq_len is None else seq_len, len(source) - 1 - i)
    data = source[i:i + seq_len].contiguous()                        # (T, B)
    targets = source[i + 1:i + 1 + seq_len].reshape(-1)              # (N,)
    return data, targets


def map_hidden(function, hidden, *others):
    """Apply `function` to each tensor of a hidden state, any nesting of lists and tuples; of several, side by side."""
    if isinstance(hidden, torch.Tensor):
        return function(hidden, *others)
    return type(hidden)(map_hidden(function, *parts) for parts in zip(hidden, *others))


def flat_hidden(hidden):
    """The tensors in a hidden state, in order."""
    return [hidden] if isinstance(hidden, torch.Tensor) else [tensor for part in hidden for tensor in flat_hidden(part)]


def repackage_hidden(h):
    """The same hidden state, cut off from the graph that made it."""
    return map_hidden(torch.Tensor.detach, h)
