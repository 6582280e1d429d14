"""A model's step as an ONNX graph, and a scorer of whole texts made of the step. Needs the package onnx.

N batch size, L layers, W the widest part of a state, V words, T steps. Arithmetic is that of `cells`, and written as in
`softmaxes`: a `Value` is the result of a node, and operators on it add nodes.
"""
from itertools import count

import numpy
import torch

from runtime.errors import InputError
from utils import flat_hidden

OPSET, IR = 13, 8                     # old enough for the engines that are in use


def package():
    """The package onnx, its helpers among it. InputError where it, or onnxruntime, is not there."""
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
        import onnxruntime  # noqa: F401
    except ImportError:
        raise InputError("ONNX models need the packages onnx and onnxruntime: pip install onnx onnxruntime") from None
    return onnx


class Value:
    """What a node of a `Graph` gives. Of its methods `NODES` has the names of those that add one node."""

    def __init__(self, graph, name):
        self.graph, self.name = graph, name

    def __rsub__(self, other):
        return self.graph("Sub", other, self)

    def lerp(self, end, weight):
        return self + weight * (end - self)

    def chunk(self, parts, axis):
        return self.graph("Split", self, outputs=parts, axis=axis)

    def log_softmax(self):
        return self.graph("LogSoftmax", self, axis=-1)

    def at(self, start, stop, axis):
        return self.graph("Slice", self, *(self.graph.whole([i]) for i in (start, stop, axis)))


NODES = {"__add__": "Add", "__sub__": "Sub", "__mul__": "Mul", "__rmul__": "Mul", "minimum": "Min",
         "sigmoid": "Sigmoid", "tanh": "Tanh"}
for _method, _kind in NODES.items():
    setattr(Value, _method, lambda self, *others, kind=_kind: self.graph(kind, self, *others))


class Graph:
    """Nodes, and the tensors that they take.

    tensors: a state dict; those that are used are stored, each once. prefix: of the names of all else.
    """

    def __init__(self, tensors=(), prefix=""):
        self.onnx, self.tensors, self.prefix = package(), dict(tensors), prefix
        self.nodes, self.stored, self.numbers = [], {}, count()

    def __call__(self, kind, *inputs, outputs=1, **attributes):
        """Add a node -> its Value, or several. An input that is a number is a constant."""
        inputs = [each if isinstance(each, Value) else self.constant(each) for each in inputs]
        names = [f"{self.prefix}{kind}_{next(self.numbers)}" for _ in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(kind, [each.name for each in inputs], names, **attributes))
        values = [Value(self, name) for name in names]
        return values[0] if outputs == 1 else values

    def named(self, value, name):
        self.nodes.append(self.onnx.helper.make_node("Identity", [value.name], [name]))

    def whole(self, values):
        """A whole number, or nested lists of them."""
        return self.constant(values, numpy.int64)

    def constant(self, values, kind=numpy.float32):
        array = numpy.array(values, kind)
        name = f"{self.prefix}{array.dtype}_" + "_".join(map(str, [*array.shape, "of", *array.flatten().tolist()]))
        return self.store(name, array)

    def parameter(self, name):
        return self.store(name, self.tensors[name].detach().contiguous().numpy())

    def store(self, name, array):
        if name not in self.stored:
            self.stored[name] = self.onnx.numpy_helper.from_array(array, name)
        return Value(self, name)

    def map(self, weight, bias=None):
        """A function of `linear`; without a bias, weight is the name of both but for their endings."""
        names = (weight, bias) if bias else (f"{weight}.weight", f"{weight}.bias")
        return lambda x: self.linear(x, *names)

    def linear(self, x, weight, bias=None):
        """x (N, I) -> (N, O). weight (O, I), bias (O,): their names."""
        inputs = [self.parameter(name) for name in (weight, bias) if name in self.tensors]
        return self("Gemm", x, *inputs, transB=1)


# ---- a step of each cell: x (N, I), a state -> output (N, H), the state after it; parts of a state are (N, ·). layer:
# how the names of the cell's parameters begin

def gated(graph, cell, layer, x, state):
    """An LSTM or a GRU."""
    state = cell.step(graph.linear(x, f"{layer}.weight_ih_l0", f"{layer}.bias_ih_l0"),
                      graph.linear(state[0], f"{layer}.weight_hh_l0", f"{layer}.bias_hh_l0"), *state)
    return state[0], state


def mogrifier(graph, cell, layer, x, state):
    rounds = [[graph.map(f"{layer}.rounds.{turn}.{factor}") for factor in range(len(factors))]
              for turn, factors in enumerate(cell.rounds)]
    x, h = cell.scaled(x, state[0], rounds)
    return gated(graph, cell, layer, x, [h, state[1]])


def rhn(graph, cell, layer, x, state):
    maps = [graph.map(f"{layer}.weight_hh.{depth}", f"{layer}.bias.{depth}") for depth in range(len(cell.weight_hh))]
    s = cell.step(graph.linear(x, f"{layer}.weight_ih"), state[0], maps)
    return s, [s]


def qrnn(graph, cell, layer, x, state):
    """The first layer's state has a second part, the word before."""
    inputs = graph("Concat", x, state[1], axis=-1) if len(state) > 1 else x
    z, f, o = graph.linear(inputs, f"{layer}.linear.weight", f"{layer}.linear.bias").chunk(3, 1)
    c = z.tanh().lerp(state[0], f.sigmoid())
    return o.sigmoid() * c, [c, x][:len(state)]


STEPS = {"LSTM": gated, "GRU": gated, "QRNN": qrnn, "RHN": rhn, "Mogrifier": mogrifier}


# ---- a softmax: features (N, F) -> log-probabilities (N, V)

def log_probabilities(graph, cutoffs, features):
    decoder = "decoder.weight" if "decoder.weight" in graph.tensors else "encoder.weight"
    if "softmax.prior.weight" in graph.tensors:
        return mixture(graph, features, decoder)
    if "projection.weight" in graph.tensors:
        features = graph.linear(features, "projection.weight")
    weight = graph.tensors[decoder]
    edges = [cut for cut in cutoffs or [] if cut < len(weight)]
    if edges:
        return adaptive(graph, features, weight, [*edges, len(weight)])
    return graph.linear(features, decoder, "decoder.bias").log_softmax()


def adaptive(graph, features, weight, edges):
    """Head and tails (splitcross.py); the tails' entries in the head are in falling order."""
    bias, tails = graph.tensors["decoder.bias"], len(edges) - 1
    first = slice(edges[0])
    graph.tensors["part0.weight"] = torch.cat([weight[first], graph.tensors["softmax.tail_vectors"][:tails]])
    graph.tensors["part0.bias"] = torch.cat([bias[first], graph.tensors["softmax.tail_bias"][:tails]])
    for k, (low, high) in enumerate(zip(edges, edges[1:]), start=1):
        graph.tensors[f"part{k}.weight"], graph.tensors[f"part{k}.bias"] = weight[low:high], bias[low:high]
    head, *parts = (graph.linear(features, f"part{k}.weight", f"part{k}.bias").log_softmax()
                    for k in range(len(edges)))
    entries = [edges[0] + tails - k for k in range(1, len(edges))]
    return graph("Concat", head.at(0, edges[0], 1),
                 *(head.at(entry, entry + 1, 1) + part for entry, part in zip(entries, parts)), axis=-1)


def mixture(graph, features, decoder):
    """log Σ π_k p_k (softmaxes/mixture.py)."""
    components = len(graph.tensors["softmax.prior.weight"])
    latents = graph.linear(features, "softmax.latent.weight", "softmax.latent.bias").tanh()
    priors = graph.linear(features, "softmax.prior.weight").log_softmax()
    latents, priors = (value.chunk(components, 1) if components > 1 else [value] for value in (latents, priors))
    parts = [graph.linear(latent, decoder, "decoder.bias").log_softmax() + prior
             for latent, prior in zip(latents, priors)]
    stacked = graph("Concat", *(graph("Unsqueeze", part, graph.whole([1])) for part in parts), axis=1)  # (N, K, V)
    return graph("ReduceLogSumExp", stacked, axes=[1], keepdims=0)


# ---- models

def step_model(model, metadata, table=None):
    """x (N, 1), h0, c0 (L, N, W) -> log_softmax (N, V), next_h0, next_c0, as a model.

    model: an RNNModel. metadata: a dict. table: of other ids those of the model, a list of V, if x and the columns of
    log_softmax are to have these. A layer's state is in the first columns of h0 and, where it has a second part, of c0.
    """
    graph, kind = Graph(model.state_dict()), model.config.model
    widths = [[part.size(2) for part in flat_hidden(state)] for state in model.init_hidden(1)]     # of parts of a state
    widest = max(map(max, widths))
    past = [Value(graph, "h0"), Value(graph, "c0")]
    words = graph("Reshape", Value(graph, "x"), graph.whole([-1]))                                      # (N,)
    if table:
        own_ids = graph.store("own_ids", numpy.array(table, numpy.int64))
        words = graph("Gather", own_ids, words)
    x = graph("Gather", graph.parameter("encoder.weight"), words)                                          # (N, E)
    outputs, after = [], ([], [])
    for layer, parts in enumerate(widths):
        whole = [graph("Gather", part, graph.whole([layer]), axis=0) for part in past]                  # (1, N, W)
        state = [graph("Reshape", part.at(0, width, 2), graph.whole([-1, width]))
                 for part, width in zip(whole, parts)]                                                     # (N, ·)
        x, state = STEPS[kind](graph, model.rnns[layer], f"rnns.{layer}", x, state)
        outputs.append(x)
        for k, part in enumerate(whole):
            if k < len(state):
                part = graph("Pad", state[k], graph.whole([0, 0, 0, widest - parts[k]]))
                part = graph("Unsqueeze", part, graph.whole([0]))
            after[k].append(part)
    features = sum(outputs[1:], outputs[0]) if model.config.skip_output else outputs[-1]
    logprobs = log_probabilities(graph, model.softmax.settings.get("cutoffs"), features)
    graph.named(graph("Gather", logprobs, own_ids, axis=1) if table else logprobs, "log_softmax")
    for name, parts in zip(("next_h0", "next_c0"), after):
        graph.named(graph("Concat", *parts, axis=0), name)

    states = len(widths), "N", widest
    vocabulary = len(table or model.encoder.weight)
    return model_of(graph.nodes, list(graph.stored.values()),
                    {"x": ("N", 1), "h0": states, "c0": states},
                    {"log_softmax": ("N", vocabulary), "next_h0": states, "next_c0": states},
                    {**metadata, "comment": "one step, with its state", "num_layers": states[0], "hidden_size": widest,
                     "embedding_dim": model.encoder.embedding_dim, "vocab_size": vocabulary})


def scorer_model(step, metadata):
    """x (N, T), x_lens (N,) -> nll (N,): minus the log-probability of each text and of its end, after that of another.

    step: a model of `step_model`, also a quantised one. It is what a Scan repeats along the texts.
    """
    about = {entry.key: entry.value for entry in step.metadata_props}
    layers, widest = int(about["num_layers"]), int(about["hidden_size"])
    graph = Graph(prefix="text_")
    x, lengths = Value(graph, "x"), graph("Unsqueeze", Value(graph, "x_lens"), graph.whole([1]))           # (N, 1)
    texts, end = graph("Shape", x).at(0, 1, 0), graph.whole([[int(about["eos_id"])]])
    ends = graph("Expand", end, graph("Concat", texts, graph.whole([1]), axis=0))                          # (N, 1)
    read, following = graph("Concat", ends, x, axis=1), graph("Concat", x, ends, axis=1)                   # (N, 1 + T)
    steps = graph("Squeeze", graph("Shape", read).at(1, 2, 0))
    places = graph("Range", graph.whole(0), steps, graph.whole(1))                                         # (1 + T,)
    targets = graph("Where", graph("Equal", places, lengths), end, following)
    counts = graph("Not", graph("Greater", places, lengths))
    by_step = [graph("Unsqueeze", graph("Transpose", value, perm=[1, 0]), graph.whole([2]))
               for value in (read, targets, counts)]                                                    # (1 + T, N, 1)
    zeros = graph("ConstantOfShape", graph("Concat", graph.whole([layers]), texts, graph.whole([widest]), axis=0))
    body, stored = surprisal_step(step, (layers, "N", widest))
    *_, nll = graph("Scan", zeros, zeros, *by_step, outputs=3, body=body, num_scan_inputs=3)            # (1 + T, N, 1)
    graph.named(graph("ReduceSum", nll, graph.whole([0, 2]), keepdims=0), "nll")
    model = model_of(graph.nodes, [*step.graph.initializer, *stored, *graph.stored.values()],
                     {"x": ("N", "T"), "x_lens": ("N",)}, {"nll": ("N",)},
                     {**metadata, "comment": "the whole text", "vocab_size": about["vocab_size"]})
    del model.opset_import[:]
    model.opset_import.extend(step.opset_import)
    return model


def surprisal_step(step, states):
    """h0, c0, word, target, counts (N, 1) -> next_h0, next_c0, nll_t (N, 1), 0 where it does not count; as a graph.

    Its parameters are those of the model around it, and what else is stored there, which is the second thing returned.
    """
    graph = Graph(prefix="each_")
    surprisal = graph("Neg", graph("GatherElements", Value(graph, "log_softmax"), Value(graph, "target"), axis=1))
    graph.named(graph("Where", Value(graph, "counts"), surprisal, 0), "nll_t")
    body = graph.onnx.helper.make_graph(
        [*_reading(step.graph.node, "word"), *graph.nodes], "step",
        [*_infos({"h0": states, "c0": states}), *_infos({"word": ("N", 1), "target": ("N", 1)}, "INT64"),
         *_infos({"counts": ("N", 1)}, "BOOL")],
        _infos({"next_h0": states, "next_c0": states, "nll_t": ("N", 1)}))
    return body, graph.stored.values()


def _reading(nodes, name):
    """Copies of nodes that read `name` where they read x."""
    for node in nodes:
        copy = type(node)()
        copy.CopyFrom(node)
        copy.input[:] = [name if each == "x" else each for each in node.input]
        yield copy


def model_of(nodes, stored, inputs, outputs, metadata):
    """A model with inputs and outputs of these shapes; inputs called x… are whole numbers."""
    onnx = package()
    infos = [info for name, shape in inputs.items()
             for info in _infos({name: shape}, "INT64" if name.startswith("x") else "FLOAT")]
    graph = onnx.helper.make_graph(nodes, "rnnlm", infos, _infos(outputs), stored)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.helper.set_model_props(model, {name: str(value) for name, value in metadata.items()})
    return model


def _infos(shapes, kind="FLOAT"):
    onnx = package()
    return [onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), list(shape))
            for name, shape in shapes.items()]
