"""A function of tensors as CUDA graphs: recorded for each shape of its arguments, replayed from then on.

A training step is some two thousand small kernels. Launched one by one they keep the host busy for longer than the GPU
needs to run them; a graph launches them all at once. torch.cuda.make_graphed_callables is not used: it records forward
and backward of a module for one shape, where this is a whole step, its update included, and a graph for every window
length that comes up.
"""
import warnings

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten


class RecordingFailed(RuntimeError):
    """A function cannot be recorded as a CUDA graph: the message says why, in one line."""


class Recording:
    """Whether functions are recorded: one for all `Graphs` of a run. Once it is stopped they run plainly, for good."""

    def __init__(self):
        self.active, self.reason, self._graphs = True, None, []

    def add(self, graphs):
        self._graphs.append(graphs)

    def drop(self):
        """Forget every graph, and give back the memory that they held."""
        for graphs in self._graphs:
            graphs.forget()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def stop(self, reason):
        """Record and replay no more; a warning says why -> whether that changes anything."""
        if not self.active:
            return False
        self.active, self.reason = False, reason
        warnings.warn(f"going on without CUDA graphs: {reason}", stacklevel=2)
        self.drop()
        return True

    def stop_for_memory(self, error):
        """A remedy (ops/fallbacks.py): without graphs, what they held is free for plain steps."""
        return isinstance(error, torch.OutOfMemoryError) and self.stop("they and a plain step do not fit into memory")


class Graphs:
    """`Graphs(function, device)(*arguments)` is `function(*arguments)`, by a graph where these shapes came before.

    function: takes tensors, and lists, tuples and dicts of them, and returns such; tensors that it holds on to, like
    weights, it changes in place; it never reads a value on the host. What is returned is overwritten by a later call.
    recording: shared by what must stop together.

    The first call with new shapes runs `function` as it is, which loads and sizes all that a recording must find
    ready; lengths that come but once are never recorded. Random numbers are those that the function itself would draw,
    also where a recording fails and it runs plainly from then on. All graphs share one pool of memory: they never run
    at the same time.
    """

    def __init__(self, function, device, recording=None):
        self.function, self.device = function, device
        self.recording = recording or Recording()
        self.recording.add(self)
        self.forget()

    def forget(self):
        """Drop what was recorded: the function does something else from now on."""
        self._seen, self._recorded = set(), {}
        self._recorder = Recorder(self.device) if self.recording.active else None

    def __call__(self, *arguments):
        if not self.recording.active:
            return self.function(*arguments)
        leaves, structure = tree_flatten(arguments)
        key = tuple(leaf.shape for leaf in leaves)
        if key not in self._seen:
            self._seen.add(key)
            return self._recorder.run(self.function, arguments)
        if key not in self._recorded:
            inputs = [leaf.clone() for leaf in leaves]
            try:
                graph, outputs = self._recorder.record(self.function, tree_unflatten(inputs, structure))
            except (RecordingFailed, torch.OutOfMemoryError) as error:
                reason = str(error).splitlines()[0]
            else:
                reason, self._recorded[key] = None, (graph, inputs, outputs)
            if reason:                               # out here, where the error holds on to nothing any more
                self.recording.stop(reason)
                return self.function(*arguments)
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
        """-> graph, the outputs that its replays fill. Raises RecordingFailed, and leaves no trace, if that fails."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.stream.device)
        generator = torch.cuda.default_generators[self.stream.device.index]
        before = generator.clone_state()
        try:
            # thread_local: other threads go on, such as the one in which NCCL watches over collectives.
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                outputs = function(*arguments)
        except RuntimeError as error:    # often of the recording's end, after the one that tells why
            torch.cuda.set_stream(current)               # which torch leaves out where the recording's end fails
            generator.graphsafe_set_state(before)        # or it would wait for a graph for ever
            reason = str(error.__context__ or error).splitlines()[0]
            raise RecordingFailed(f"a step cannot be recorded ({reason})") from error
        return graph, outputs
