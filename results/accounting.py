"""How much memory a training step takes, counted tensor by tensor on a CPU. Flags: those of `main.py`, and --words.

    python results/accounting.py --words 267735 --model QRNN --nhid 2500 … --json results/cpu/NAME.json

The softmax takes slices as large as on a GPU. A GPU must hold about the same, and besides the corpus, 8 bytes a token,
and what its libraries and kernels take. The step is the longest there can be, its words as frequent as in a text
(Zipf), so that as many predictions as there reach the tails of an adaptive softmax.
"""
import sys
import weakref
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import main
import splitcross
from model import build, count_parameters, resolve, set_precision
from runtime import devices, options, record, values
from runtime.devices import peak_memory_mib
from training import optimizers
from training.step import TrainStep


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that operations give and that are still there."""

    def __init__(self):
        super().__init__()
        self.sizes, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.hold(tensor)
        return result

    def hold(self, tensor):
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += self.sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._release, key)

    def _release(self, key):
        self.now -= self.sizes.pop(key)


def make_parser():
    parser = main.make_parser()
    return parser.add("accounting", (options.Flag("words", 267_735, "size of the vocabulary", values.size, "V"),
                                     options.Flag("json", None, "file for the figures", metavar="FILE")))


def count(args):
    """Bytes held between two steps, and at the peak of a step, with how large the model and the step are."""
    model = set_precision(build(vars(args), args.words), args.precision)
    step = TrainStep(model, optimizers.make(args, model), bptt=args.bptt, clip=args.clip, alpha=args.alpha,
                     beta=args.beta)
    rows = args.bptt + args.max_seq_len_delta
    chances = 1 / torch.arange(1, args.words + 1)
    text = torch.multinomial(chances, (rows + 1) * args.batch_size, replacement=True).view(rows + 1, -1)   # (T + 1, B)
    with Live() as live:
        for parameter in model.parameters():
            live.hold(parameter)
        for _ in range(2):                                   # the first makes the optimizer's state
            hidden = model.init_hidden(args.batch_size)
            step(text[:-1], text[1:].flatten(), hidden)
        return {"parameters": count_parameters(model), "rows": rows, "batch_size": args.batch_size,
                "words": args.words, "weights_bytes": 4 * count_parameters(model),
                "held_bytes": live.now, "peak_bytes": live.peak}


def show(args):
    compute = devices.prepare(args.replaced(device="cpu"), {"bf16"})
    args = resolve(optimizers.resolve(args), args.words).replaced(device="cpu", precision=compute.precision)
    splitcross.LOGITS = splitcross.GPU_LOGITS
    figures = count(args)
    print("{parameters:,} parameters, {words:,} words, batch size {batch_size}, {rows} tokens each".format(**figures))
    for name, what in (("weights_bytes", "the weights"), ("held_bytes", "held between steps, with the optimizer's"),
                       ("peak_bytes", "held at the peak of a step")):
        print(f"{what:42} {figures[name] / 2**30:6.2f} GiB")
    print(f"{'the process, at its peak':42} {peak_memory_mib('cpu') / 2**10:6.2f} GiB")
    if args.json:
        record.write(args.json, args, figures.pop("parameters"), **figures, process_mib=peak_memory_mib("cpu"))


if __name__ == "__main__":
    show(options.parse(make_parser(), None))
