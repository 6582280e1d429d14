"""A function of tensors as CUDA graphs: recorded for each shape of its arguments, replayed from then on.

A training step is some two thousand small kernels. Launched one by one they keep the host busy for longer than the GPU
needs to run them; a graph launches them all at once.
"""
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten


class RecordingFailed(RuntimeError):
    """A function cannot be recorded as a CUDA graph: the message says why, in one line."""


class Graphs:
    """`Graphs(function, device)(*arguments)` is `function(*arguments)`, by a graph where these shapes came before.

    function: takes tensors, and lists, tuples and dicts of them, and returns such; tensors that it holds on to, like
    weights, it changes in place; it never reads a value on the host. What is returned is overwritten by a later call.

    The first call with new shapes runs `function` as it is, which loads and sizes all that a recording must find
    ready; lengths that come but once are never recorded. Random numbers are those that the function itself would draw.
    All graphs share one pool of memory: they never run at the same time.

    torch.cuda.make_graphed_callables is not used: it records forward and backward of a module for one shape, where this
    is a whole step, its update included, and a graph for every window length that comes up.
    """

    def __init__(self, function, device):
        self.function, self.device = function, device
        self.forget()

    def forget(self):
        """Drop what was recorded: the function does something else from now on."""
        self._seen, self._recorded, self._too_large = set(), {}, set()
        self._recorder = Recorder(self.device)

    def __call__(self, *arguments):
        leaves, structure = tree_flatten(arguments)
        key = tuple(leaf.shape for leaf in leaves)
        if key not in self._seen or key in self._too_large:
            self._seen.add(key)
            return self._recorder.run(self.function, arguments)
        if key not in self._recorded:
            inputs = [leaf.clone() for leaf in leaves]
            try:
                graph, outputs = self._recorder.record(self.function, tree_unflatten(inputs, structure))
            except torch.OutOfMemoryError:       # what runs need not fit beside all that is recorded
                self._too_large.add(key)
                return self(*arguments)
            self._recorded[key] = graph, inputs, outputs
        graph, inputs, outputs = self._recorded[key]
        torch._foreach_copy_(inputs, leaves)
        graph.replay()
        return outputs


class Recorder:
    """CUDA's part: one stream and one pool of memory for all graphs of a function."""

    def __init__(self, device):
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def run(self, function, arguments):
        """Call `function` on the stream that it will be recorded on."""
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            outputs = function(*arguments)
        current.wait_stream(self.stream)
        return outputs

    def record(self, function, arguments):
        """-> graph, the outputs that its replays fill. Raises RecordingFailed where it cannot be recorded."""
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: other threads go on, such as the one in which NCCL watches over collectives.
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                outputs = function(*arguments)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:    # often of the recording's end, after the one that tells why
            reason = str(error.__context__ or error).splitlines()[0]
            raise RecordingFailed(f"a step cannot be recorded as a CUDA graph ({reason}); "
                                  "continue with --resume auto --no-graphs") from error
        return graph, outputs
