"""The step of the paper on a machine: memory that runs out, several processes, CUDA graphs, each a layer around it.

T window length, B batch size, N = T·B.
"""
import torch

from nt_asgd import NTASGD
from ops.fallbacks import stop_cudnn, with_fallbacks
from ops.graphs import Graphs
from utils import map_hidden


class InHalves:
    """`forward_backward`; a rare long window that does not fit into memory in two halves of its batch."""

    def __init__(self, forward_backward):
        self.forward_backward = forward_backward
        self.too_large = set()             # shapes of windows that did not fit

    def __call__(self, data, targets, hidden, share):
        try:
            return self.forward_backward(data, targets, hidden, share)
        except torch.OutOfMemoryError:
            if data.size(1) == 1 or (data.is_cuda and torch.cuda.is_current_stream_capturing()):
                raise
        # Only out here, where the error no longer holds on to what was computed, is that memory free again.
        self.too_large.add(data.shape)
        targets, middle = targets.view_as(data), data.size(1) // 2
        halves = []
        for part in (slice(0, middle), slice(middle, None)):
            x = data[:, part]                                                          # (T, B/2)
            state = map_hidden(lambda h, part=part: h[:, part].contiguous(), hidden)   # (1, B/2, H) each
            halves.append(self.forward_backward(x, targets[:, part].reshape(-1), state,
                                                share * x.size(1) / data.size(1)))
        (loss, first, gradients), (other_loss, second, others) = halves
        for gradient, other in zip(gradients, others):
            if gradient is not None:
                gradient += other
        return loss + other_loss, map_hidden(lambda a, b: torch.cat([a, b], dim=1), first, second), gradients


class Summed:
    """`forward_backward` with loss and gradients summed over the processes of `group`, each with its share of them."""

    def __init__(self, forward_backward, group):
        self.forward_backward, self.group = forward_backward, group

    def __call__(self, data, targets, hidden, share):
        loss, hidden, gradients = self.forward_backward(data, targets, hidden, share)
        self.group.all_reduce_sum_([loss, *(g for g in gradients if g is not None)])
        return loss, hidden, gradients


class GraphedStep:
    """A `TrainStep`, replayed as CUDA graphs; the hidden state it gives is overwritten by the next step.

    NT-ASGD takes all its numbers from the device, and its update is part of the graph. Others follow gradients that a
    graph leaves in one place. recording: an `ops.graphs.Recording`; once it is stopped, steps are plain ones.
    too_large: shapes of windows that no graph is recorded of.
    """

    def __init__(self, step, recording, too_large):
        self.plain, self.too_large = step, too_large
        self.model, self.optimizer, self.parameters = step.model, step.optimizer, step.parameters
        self.whole = isinstance(step.optimizer, NTASGD)
        self.left = None if self.whole else [torch.zeros_like(p) for p in self.parameters]
        self.graphs = Graphs(step.step if self.whole else self._leave_gradients, self.parameters[0].device, recording)
        self.averaging = False

    def __call__(self, data, targets, hidden):
        if not self.graphs.recording.active or data.shape in self.too_large:
            return self.plain(data, targets, hidden)
        rates = self.plain.rates(len(data), data.device)
        if not self.whole:
            norm, loss, hidden, finite = self.graphs(data, targets, hidden)
            self.plain.update(self.left, norm, finite, rates)
            return loss.clone(), hidden
        if self.optimizer.averaging != self.averaging:
            self.averaging = self.optimizer.averaging
            self.graphs.forget()
        loss, hidden = self.graphs(data, targets, hidden, rates)
        return loss.clone(), hidden

    def _leave_gradients(self, data, targets, hidden):
        gradients, *rest = self.plain.gradients(data, targets, hidden)
        torch._foreach_copy_(self.left, gradients)
        return rest


def compose_loss(window_loss, device, recording=None):
    """The loss of a window in evaluation, as `evaluation.loss.window_loss` gives it, with its layers on `device`."""
    if device.type != "cuda":
        return window_loss
    if not recording:
        return with_fallbacks(window_loss, stop_cudnn)
    return Graphs(with_fallbacks(window_loss, stop_cudnn, recording.stop_for_memory), device, recording)


def compose(step, group=None, recording=None):
    """A `TrainStep` with its layers, from the inside outwards -> what is called like it.

    group: the processes that take the step together, each with its share of the batch. recording: an
    `ops.graphs.Recording`, with which steps are replayed as CUDA graphs.
    """
    compute = step.forward_backward
    if step.parameters[0].is_cuda:
        compute = with_fallbacks(compute, stop_cudnn, *([recording.stop_for_memory] if recording else []))
    compute = halves = InHalves(compute)
    if group and group.exchanges:
        compute = Summed(compute, group)
    step.compute = compute
    return GraphedStep(step, recording, halves.too_large) if recording else step
