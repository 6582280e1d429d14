"""ids → windows. T window length, B columns, L column length, N = T·B."""
import torch

from errors import InputError


def batchify(data, bsz, args):
    """Lay a stream (tokens,) out in `bsz` columns, each reading on in its own part -> (L, B) on `args.device`.

    The last tokens % B tokens are left out. Raises InputError when a column would have fewer than two tokens:
    nothing could be predicted.
    """
    length = data.size(0) // bsz
    if length < 2:
        raise InputError(f"{data.size(0)} tokens are too few for {bsz} columns; "
                         f"use a smaller batch size (at most {data.size(0) // 2}) or more text")
    columns = data[:length * bsz].view(bsz, length).t()              # (L, B)
    return columns.to(getattr(args, "device", None) or columns.device)


def get_batch(source, i, args, seq_len=None, evaluation=False):
    """Window of `source` (L, B) from row `i`: inputs (T, B) and the words that follow them (N,).

    T is `seq_len` (default `args.bptt`) or what is left. `evaluation` is accepted for callers of the published
    signature: windows are the same in training and evaluation.
    """
    seq_len = min(args.bptt if seq_len is None else seq_len, len(source) - 1 - i)
    data = source[i:i + seq_len].contiguous()                        # (T, B)
    targets = source[i + 1:i + 1 + seq_len].reshape(-1)              # (N,)
    return data, targets


def repackage_hidden(h):
    """The same hidden state, tensors or any nesting of lists and tuples, cut off from the graph that made it."""
    if isinstance(h, torch.Tensor):
        return h.detach()
    return type(h)(repackage_hidden(v) for v in h)
