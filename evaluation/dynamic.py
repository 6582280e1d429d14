"""Dynamic evaluation (Krause et al. 2018, 1709.07432): a model goes on learning from the text it is evaluated on.

The text is read in segments of a few tokens. Each is scored with the weights as they are; only then do they take a step
down the segment's gradient, and are drawn back a little towards the trained weights. With segments that are sentences
it is the adaptation of van Schijndel and Linzen (2018, "A Neural Model of Adaptation in Reading").

T segment length, B batch size, L stream length, E width of a feature, N = T·B.
"""
import math
import zlib
from typing import NamedTuple

import torch
from tqdm import tqdm

import checkpoint
from evaluation.resumable import PARTS, ResumablePass
from evaluation.scoring import Scores, score_features
from ops import few
from ops.fallbacks import stop_cudnn, with_fallbacks
from ops.update import update
from runtime import values
from runtime.errors import InputError
from runtime.log import log, perplexity, report_tokens
from runtime.meter import Meter
from runtime.options import Flag
from utils import get_batch, repackage_hidden

DETAILS = ("ranks", "entropies")       # what is kept of a reading besides PARTS, where it was asked for
LEARNING_RATE = {"rms": 5e-5, "sgd": 0.3}
FLAGS = (
    Flag("rule", "rms", "scaling of steps and decay: rms, by how large a weight's gradient was in training; sgd, none",
         choices=("rms", "sgd")),
    Flag("lr", None, "learning rate; {rms} for rms and {sgd} for sgd if not given".format(**LEARNING_RATE),
         values.non_negative, "X"),
    Flag("lamb", 0.002, "share of the way back to the trained weights that every step goes; with rms that of a weight "
         "whose gradient is as large as the parameters' are on average", values.weight, "X"),
    Flag("epsilon", 2e-5, "added to the root of a gradient's mean square, which rms divides by", values.positive,
         "X"),
    Flag("bptt", 5, "tokens in a segment", values.size, "N"),
    Flag("stat_batch_size", 100, "batch size with which the training text is read for the gradients' mean squares",
         values.size, "N"),
)


def learning_rate(args):
    return LEARNING_RATE[args.rule] if args.lr is None else args.lr


class Learnt(NamedTuple):
    """What was found of a text of N tokens while the model learnt from it; `scores`: with ranks and entropies (N,)
    where they were asked for."""
    features: torch.Tensor                # (N, E)
    targets: torch.Tensor                 # (N,)
    logprobs: torch.Tensor                # (N,) in nats
    speed: float                          # tokens per second
    scores: Scores


class Diverged(InputError):
    """The steps were so large that the model is lost."""


class Segments(NamedTuple):
    """Where the segments of streams (L, B) begin: ascending rows, from 0 on. The last one ends where the streams do.

    reset: whether each is read from a zero state, or from that which the one before it has left.
    """
    starts: list
    reset: bool = False


def segments_of(streams, bptt):
    """Segments of `bptt` tokens each."""
    return Segments(list(range(0, len(streams) - 1, bptt)))


def segments_by_line(ends, reset):
    """A segment for each line: ends (N,) says of every scored word whether it ends one."""
    return Segments([0, *(row for row, end in enumerate(ends[:-1], start=1) if end)], reset)


def read_segments(model, streams, segments, row=0, hidden=None, form=True):
    """Read `streams` (L, B) from `row` on, without dropout -> yields features (N, E), targets (N,), gradients, hidden.

    row: where one of the `segments` begins. The gradients are those of the segment's mean loss, a tensor for each
    parameter of `model`, or without `form` where there are few tokens a `few.Product`. What is done to the parameters
    before the next segment is asked for holds from that one on.
    The state is carried, cut off from its graph, or is zero for each segment, as `segments` say.
    """
    model.eval()
    parameters = list(model.parameters())

    def differentiate(data, targets, hidden):
        with few.unformed(parameters, data.numel()) as whole:
            features, hidden = model(data, hidden)
            gradients = torch.autograd.grad(model.loss(features, targets), parameters, allow_unused=True)
        gradients = whole(gradients)
        return features.detach(), few.formed(gradients) if form else gradients, repackage_hidden(hidden)

    if parameters[0].is_cuda:
        differentiate = with_fallbacks(differentiate, stop_cudnn)
    for start, stop in zip(segments.starts, [*segments.starts[1:], len(streams) - 1]):
        if start < row:
            continue
        if hidden is None or segments.reset:
            hidden = model.init_hidden(streams.size(1))
        data, targets = get_batch(streams, start, None, seq_len=stop - start)
        features, gradients, hidden = differentiate(data, targets, hidden)
        yield features, targets, gradients, hidden


def rms_rates(mean_squares, lr, lamb, epsilon):
    """For each parameter, elementwise, its learning rate and its decay under the RMS rule (section 4.2).

    mean_squares: MS, the mean square of its gradient. lr / (sqrt(MS) + epsilon), and lamb · sqrt(MS) / m, where m is
    the mean over parameters of the mean of their elements' roots, as in the authors' code: a parameter counts as much
    as any other, however many elements it has. A decay is at most 1, which takes a weight all the way back. Raises
    InputError where all gradients were zero.
    """
    roots = torch._foreach_sqrt(mean_squares)
    mean = math.fsum(root.mean(dtype=torch.float64).item() for root in roots) / len(roots)
    if not mean > 0:
        raise InputError("the gradients of the training text are zero or not finite: there is nothing to learn from")
    return ([lr / (root + epsilon) for root in roots],
            [(root * (lamb / mean)).clamp_(max=1) for root in roots])


def sgd_rates(parameters, lr, lamb):
    """For each parameter its learning rate and its decay, the same for all, under the SGD rule (section 4.1)."""
    return [[parameters[0].new_tensor(rate)] * len(parameters) for rate in (lr, lamb)]


def digest(streams):
    """A number that tells texts apart."""
    return zlib.crc32(streams.cpu().contiguous().numpy())


class DynamicPass(ResumablePass):
    """A long pass during which `model` learns; used as ResumablePass is, and continued as that.

    Every text is read from the trained weights on, and they are back in place after it.
    """
    parts = (*PARTS, *DETAILS)

    def __init__(self, path, args, model, stage="dynamic"):
        super().__init__(path, args, stage)
        self.model = model
        self.weights = [w.detach() for w in model.parameters()]    # the same memory
        self.trained = [w.clone() for w in self.weights]
        self.mean_squares, self.gathered = None, ""          # gathered: what they were taken from

    def gather(self, streams):
        """Take the gradients' mean squares over all windows of the training text, `streams` (L, B).

        They are kept for a run that continues, but only as a whole.
        """
        self.gathered = name = f"mean squares {digest(streams)} {streams.size(1)} {self.args.bptt}"
        with self._untrusted():
            self.mean_squares = self.splits.get(name)
            for saved, like in zip(self.mean_squares or [], self.trained, strict=bool(self.mean_squares)):
                checkpoint.check_tensor(saved.cpu(), like.cpu(), name)
        if not self.mean_squares:
            self.splits[name] = self.mean_squares = self._mean_squares(streams)
        self.mean_squares = [square.to(streams.device) for square in self.mean_squares]

    def _mean_squares(self, streams):
        squares, meter = [torch.zeros_like(w) for w in self.trained], Meter()
        with tqdm(total=len(streams) - 1, disable=None, leave=False) as bar:
            for _, targets, gradients, _ in read_segments(self.model, streams, segments_of(streams, self.args.bptt)):
                torch._foreach_addcmul_(squares, gradients, gradients)
                meter.add(0, len(targets))
                bar.update(len(targets) // streams.size(1))
                self.interruption.check()
        log(f"| mean squares of the gradients taken from {meter.tokens:,} tokens | {meter.speed():.0f} tokens/s")
        return torch._foreach_div(squares, meter.batches)

    def learn(self, split, stream, lr, lamb, segments=None, ranks=False, entropies=False, keep=None, quiet=False):
        """Score `stream` (N + 1, 1) and learn from it -> Learnt.

        segments: of --bptt tokens if not given. ranks, entropies: find them, too, with the weights of the moment. keep:
        called without arguments when the text is read and the model has still learnt from it. quiet: no log lines.
        Raises Diverged where a segment's perplexity is not a finite number.
        """
        args, segments = self.args, segments or segments_of(stream, self.args.bptt)
        rates, decays = (rms_rates(self.mean_squares, lr, lamb, args.epsilon) if args.rule == "rms" else
                         sgd_rates(self.trained, lr, lamb))
        name = self._name(split, stream, lr, lamb, segments, ranks, entropies)
        torch._foreach_copy_(self.weights, self.trained)
        seen, meter = self._continued(name, stream, segments)
        row = meter.tokens
        with tqdm(total=len(stream) - 1, initial=row, disable=None, leave=False) as bar:
            for features, targets, gradients, hidden in read_segments(self.model, stream, segments, row,
                                                                      seen["hidden"], form=False):
                with torch.no_grad():
                    scores = score_features(self.model, features, targets, ranks=ranks, entropies=entropies)
                loss = -scores.logprobs.mean().item()
                if not math.isfinite(perplexity(loss)):
                    del self.splits[name]
                    raise Diverged(f"the loss is {loss:g} after {meter.tokens:,} tokens of {split}: --lr {lr:g} is too "
                                   "large for this model; use a smaller one, or what dynamiceval.py --search finds "
                                   "with more --search-tokens")
                update(self.weights, self.trained, decays, gradients, rates)
                for part, values in zip(self.parts, (features, targets, *scores)):
                    seen[part] += [] if values is None else [values]
                meter.add(loss, len(targets))
                seen.update(hidden=hidden, weights=self.weights, seconds=meter.seconds())
                bar.update(len(targets))
                if meter.batches % args.log_interval == 0 and not quiet:
                    log(f"| {split:>5} | {meter.tokens:7,}/{len(stream) - 1:,} tokens | {meter.speed():5.0f} tokens/s "
                        f"| {report_tokens(meter.loss())}")
                self._pause()
        if keep:
            keep()
        seen["weights"] = []         # no longer needed
        torch._foreach_copy_(self.weights, self.trained)
        features, targets, logprobs, *details = (torch.cat(seen[part]) if seen[part] else None for part in self.parts)
        return Learnt(features, targets, logprobs, meter.tokens / max(seen["seconds"], 1e-9),
                      Scores(logprobs, *details))

    def loss(self, stream, lr, lamb):
        """Mean loss on `stream`, of which nothing else is kept; infinity where it diverges."""
        name = self._name("search", stream, lr, lamb, segments_of(stream, self.args.bptt))
        with self._untrusted():
            if "loss" in self.splits.get(name, {}):
                return float(self.splits[name]["loss"])
        try:
            logprobs = self.learn("search", stream, lr, lamb, quiet=True).logprobs
            loss = -math.fsum(logprobs.tolist()) / len(logprobs)
        except Diverged:
            loss = math.inf
        self.splits[name] = {"loss": loss}
        return loss

    def _name(self, split, stream, lr, lamb, segments, *details):
        """What a reading depends on, besides the model."""
        cut = zlib.crc32(repr(segments).encode())
        return (f"{split} {digest(stream)} {self.args.rule} {lr} {lamb} {self.args.epsilon} {self.args.bptt} {cut} "
                f"{''.join(str(int(detail)) for detail in details)} {self.gathered}")

    def _continued(self, name, stream, segments):
        """What was read of `stream` under `name`, the weights as they were then, and a meter of it."""
        seen = self._seen(name, self.model, stream)
        with self._untrusted():
            logprobs = [logprob for part in seen["vocab"] for logprob in part.tolist()]
            row = len(logprobs)
            for part in DETAILS:
                seen[part] = [values.to(stream.device) for values in seen.get(part, [])]
                if sum(map(len, seen[part])) not in (0, row):
                    raise ValueError(f"{part} of other words")
            if row not in (*segments.starts, len(stream) - 1):
                raise ValueError("it ends inside a segment")
            if 0 < row < len(stream) - 1 or seen.get("weights"):
                for saved, weight in zip(seen["weights"], self.weights, strict=True):
                    checkpoint.check_tensor(saved.cpu(), weight.cpu(), "weights")
                    weight.copy_(saved)
            meter = Meter(-math.fsum(logprobs), row, sum(start < row for start in segments.starts),
                          float(seen.setdefault("seconds", 0)))
        return seen, meter
