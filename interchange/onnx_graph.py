"""A model's step as an ONNX graph, and a scorer of whole texts made of the step. Needs the package onnx.

N batch size, L layers, W the widest part of a state, V words, T steps. Arithmetic is written as in `cells` and
`softmaxes`: a `Value` is the result of a node, and operators on it add nodes.
"""
from itertools import count

import numpy
import torch

from interchange.settings import width_of_last
from runtime.errors import InputError

OPSET, IR = 13, 8                     # old enough for the engines that are in use


def package():
    """The package onnx, its helpers among it."""
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError:
        raise InputError("ONNX models need the packages onnx and onnxruntime: pip install onnx onnxruntime") from None
    return onnx


class Value:
    """What a node of a `Graph` gives."""

    def __init__(self, graph, name):
        self.graph, self.name = graph, name

    def __add__(self, other):
        return self.graph("Add", self, other)

    def __mul__(self, other):
        return self.graph("Mul", self, other)

    def __rmul__(self, other):
        return self.graph("Mul", self.graph.constant(other), self)

    def __rsub__(self, other):
        return self.graph("Sub", self.graph.constant(other), self)

    def __sub__(self, other):
        return self.graph("Sub", self, other)

    def sigmoid(self):
        return self.graph("Sigmoid", self)

    def tanh(self):
        return self.graph("Tanh", self)

    def chunk(self, parts):
        return self.graph("Split", self, outputs=parts, axis=-1)

    def log_softmax(self):
        return self.graph("LogSoftmax", self, axis=-1)

    def at(self, start, stop, axis):
        return self.graph("Slice", self, *(self.graph.constant([i]) for i in (start, stop, axis)))


class Graph:
    """Nodes, and the tensors that they take.

    tensors: a state dict; those that are used are stored, each once.
    """

    def __init__(self, tensors):
        self.onnx, self.tensors = package(), dict(tensors)
        self.nodes, self.stored, self.numbers = [], {}, count()

    def __call__(self, kind, *inputs, outputs=1, **attributes):
        """Add a node -> its Value, or several."""
        names = [f"{kind}_{next(self.numbers)}" for _ in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(kind, [each.name for each in inputs], names, **attributes))
        found = [Value(self, name) for name in names]
        return found[0] if outputs == 1 else found

    def named(self, value, name):
        self.nodes.append(self.onnx.helper.make_node("Identity", [value.name], [name]))

    def store(self, name, tensor):
        if name not in self.stored:
            self.stored[name] = self.onnx.numpy_helper.from_array(tensor.detach().contiguous().numpy(), name)
        return Value(self, name)

    def constant(self, value):
        """A number as float32, or a list of whole numbers as int64."""
        array = numpy.array(value, numpy.int64 if isinstance(value, list) else numpy.float32)
        name = f"{array.dtype}_" + "_".join(map(str, array.flatten().tolist()))
        if name not in self.stored:
            self.stored[name] = self.onnx.numpy_helper.from_array(array, name)
        return Value(self, name)

    def parameter(self, name):
        return self.store(name, self.tensors[name])

    def linear(self, x, weight, bias=None):
        """x (N, I) -> (N, O). weight (O, I), bias (O,): their names."""
        inputs = [self.parameter(name) for name in (weight, bias) if name in self.tensors]
        return self("Gemm", x, *inputs, transB=1)


# ---- a step of each cell: x (N, I), a state -> output (N, H), the state after it; parts of a state are (N, ·)

def lstm(graph, layer, settings, x, state):
    """i, f, g, o, of which i may depend on f (cells/lstm_gru.py)."""
    h, c = state
    gates = (graph.linear(x, f"{layer}.weight_ih_l0", f"{layer}.bias_ih_l0")
             + graph.linear(h, f"{layer}.weight_hh_l0", f"{layer}.bias_hh_l0"))
    *i, f, g, o = gates.chunk(3 if settings["gate"] == "coupled" else 4)
    f = f.sigmoid()
    i = i[0].sigmoid() if i else 1 - f
    if settings["gate"] == "capped":
        i = graph("Min", i, 1 - f)
    c = f * c + i * g.tanh()
    h = o.sigmoid() * c.tanh()
    return h, [h, c]


def gru(graph, layer, settings, x, state):
    (x_r, x_z, x_n), (h_r, h_z, h_n) = (graph.linear(value, f"{layer}.weight_{kind}_l0", f"{layer}.bias_{kind}_l0"
                                                     ).chunk(3) for value, kind in ((x, "ih"), (state[0], "hh")))
    r, z = (x_r + h_r).sigmoid(), (x_z + h_z).sigmoid()
    n = (x_n + r * h_n).tanh()
    h = n + z * (state[0] - n)
    return h, [h]


def mogrifier(graph, layer, settings, x, state):
    h, c = state
    for turn in range(settings["mogrifier_rounds"]):
        gate = x if turn % 2 else h
        for factor in range(2 if settings["mogrifier_rank"] else 1):
            name = f"{layer}.rounds.{turn}.{factor}"
            gate = graph.linear(gate, f"{name}.weight", f"{name}.bias")
        if turn % 2:
            h = 2 * gate.sigmoid() * h
        else:
            x = 2 * gate.sigmoid() * x
    return lstm(graph, layer, settings, x, [h, c])


def rhn(graph, layer, settings, x, state):
    s, from_input = state[0], graph.linear(x, f"{layer}.weight_ih")
    for depth in range(settings["rhn_depth"]):
        gates = graph.linear(s, f"{layer}.weight_hh.{depth}", f"{layer}.bias.{depth}")
        h, t = (gates if depth else gates + from_input).chunk(2)
        s = s + (h.tanh() - s) * t.sigmoid()
    return s, [s]


def qrnn(graph, layer, settings, x, state):
    """The first layer's state has a second part, the word before."""
    inputs = graph("Concat", x, state[1], axis=-1) if len(state) > 1 else x
    z, f, o = graph.linear(inputs, f"{layer}.linear.weight", f"{layer}.linear.bias").chunk(3)
    f = f.sigmoid()
    c = f * state[0] + (1 - f) * z.tanh()
    return o.sigmoid() * c, [c, x][:len(state)]


STEPS = {"LSTM": lstm, "GRU": gru, "QRNN": qrnn, "RHN": rhn, "Mogrifier": mogrifier}


# ---- a softmax: features (N, F) -> log-probabilities (N, V)

def log_probabilities(graph, settings, features):
    decoder = "decoder.weight" if "decoder.weight" in graph.tensors else "encoder.weight"
    if "softmax.prior.weight" in graph.tensors:
        return mixture(graph, features, decoder)
    if "projection.weight" in graph.tensors:
        features = graph.linear(features, "projection.weight")
    weight = graph.tensors[decoder]
    edges = [cut for cut in settings["cutoffs"] or [] if cut < len(weight)]
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
    latents, priors = (value.chunk(components) if components > 1 else [value] for value in (latents, priors))
    parts = [graph.linear(latent, decoder, "decoder.bias").log_softmax() + prior
             for latent, prior in zip(latents, priors)]
    stacked = graph("Concat", *(graph("Unsqueeze", part, graph.constant([1])) for part in parts), axis=1)  # (N, K, V)
    return graph("ReduceLogSumExp", stacked, axes=[1], keepdims=0)


# ---- models

def state_widths(settings):
    """Of each layer the widths of its state's parts."""
    last = settings["nlayers"] - 1
    widths = [width_of_last(settings) if layer == last else settings["nhid"] for layer in range(last + 1)]
    if settings["model"] in ("LSTM", "Mogrifier"):
        return [(width, width) for width in widths]
    if settings["model"] == "QRNN":
        return [(widths[0], settings["emsize"]), *((width,) for width in widths[1:])]
    return [(width,) for width in widths]


def step_model(settings, tensors, metadata):
    """x (N, 1), h0, c0 (L, N, W) -> log_softmax (N, V), next_h0, next_c0, as a model.

    tensors: a model's state dict. metadata: a dict. A layer's state is in the first columns of h0 and, where it has a
    second part, of c0.
    """
    graph, widths = Graph(tensors), state_widths(settings)
    widest = max(max(parts) for parts in widths)
    past = [Value(graph, "h0"), Value(graph, "c0")]
    words = graph("Reshape", Value(graph, "x"), graph.constant([-1]))                                      # (N,)
    x = graph("Gather", graph.parameter("encoder.weight"), words)                                          # (N, E)
    outputs, after = [], ([], [])
    for layer, parts in enumerate(widths):
        whole = [graph("Gather", part, graph.constant([layer]), axis=0) for part in past]                  # (1, N, W)
        state = [graph("Reshape", part.at(0, width, 2), graph.constant([-1, width]))
                 for part, width in zip(whole, parts)]                                                     # (N, ·)
        x, state = STEPS[settings["model"]](graph, f"rnns.{layer}", settings, x, state)
        outputs.append(x)
        for k, part in enumerate(whole):
            if k < len(state):
                part = graph("Pad", state[k], graph.constant([0, 0, 0, widest - parts[k]]))
                part = graph("Unsqueeze", part, graph.constant([0]))
            after[k].append(part)
    features = sum(outputs[1:], outputs[0]) if settings["skip_output"] else outputs[-1]
    logprobs = log_probabilities(graph, settings, features)
    graph.named(logprobs, "log_softmax")
    for name, parts in zip(("next_h0", "next_c0"), after):
        graph.named(graph("Concat", *parts, axis=0), name)

    states = len(widths), "N", widest
    vocabulary = len(tensors["encoder.weight"])
    return model_of(graph.nodes, list(graph.stored.values()),
                    {"x": ("N", 1), "h0": states, "c0": states},
                    {"log_softmax": ("N", vocabulary), "next_h0": states, "next_c0": states},
                    {**metadata, "comment": "one step, with its state", "num_layers": states[0], "hidden_size": widest,
                     "embedding_dim": settings["emsize"], "vocab_size": vocabulary})


def renumbered(step, table, metadata):
    """A model of `step_model` for other ids: table, a list, has the model's for each of them."""
    onnx, found = package(), type(step)()
    found.CopyFrom(step)
    make, nodes = onnx.helper.make_node, list(_reading(step.graph.node, "own_x"))
    nodes[[list(node.output) for node in nodes].index(["log_softmax"])].output[0] = "own_log_softmax"
    del found.graph.node[:], found.metadata_props[:]
    found.graph.node.extend([make("Gather", ["own_ids", "x"], ["own_x"]), *nodes,
                             make("Gather", ["own_log_softmax", "own_ids"], ["log_softmax"], axis=1)])
    found.graph.initializer.append(onnx.numpy_helper.from_array(numpy.array(table, numpy.int64), "own_ids"))
    found.graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(table)
    about = {entry.key: entry.value for entry in step.metadata_props}
    onnx.helper.set_model_props(found, {**about, **{name: str(value) for name, value in metadata.items()},
                                        "vocab_size": str(len(table))})
    return found


def scorer_model(step, metadata):
    """x (N, T), x_lens (N,) -> nll (N,): minus the log-probability of each text and of its end, after that of another.

    step: a model of `step_model`, also a quantised one. It is what a Scan repeats along the texts.
    """
    onnx = package()
    make, of = onnx.helper.make_node, onnx.numpy_helper.from_array
    about = {entry.key: entry.value for entry in step.metadata_props}
    layers, widest, eos = int(about["num_layers"]), int(about["hidden_size"]), int(about["eos_id"])

    def tensor(name, value):
        return of(numpy.array(value, numpy.int64), name)

    body = onnx.helper.make_graph(
        [*_reading(step.graph.node, "word"), make("GatherElements", ["log_softmax", "target"], ["found"], axis=1),
         make("Neg", ["found"], ["surprisal"]), make("Where", ["counts", "surprisal", "s_zero"], ["nll_t"])],
        "step",
        [*_infos({"h0": (layers, "N", widest), "c0": (layers, "N", widest)}),
         *_infos({"word": ("N", 1), "target": ("N", 1)}, onnx.TensorProto.INT64),
         *_infos({"counts": ("N", 1)}, onnx.TensorProto.BOOL)],
        _infos({"next_h0": (layers, "N", widest), "next_c0": (layers, "N", widest), "nll_t": ("N", 1)}))
    nodes = [
        make("Shape", ["x"], ["s_shape"]),                                                       # N, T
        make("Slice", ["s_shape", "s_0", "s_1"], ["s_n"]), make("Slice", ["s_shape", "s_1", "s_2"], ["s_t"]),
        make("Concat", ["s_n", "s_1"], ["s_column"], axis=0),
        make("Expand", ["s_eos", "s_column"], ["s_ends"]),                                       # (N, 1)
        make("Concat", ["s_ends", "x"], ["s_read"], axis=1),                                     # (N, 1 + T)
        make("Concat", ["x", "s_ends"], ["s_next"], axis=1),
        make("Add", ["s_t", "s_1"], ["s_steps"]), make("Squeeze", ["s_steps"], ["s_count"]),
        make("Range", ["s_first", "s_count", "s_by"], ["s_places"]),                             # (1 + T,)
        make("Unsqueeze", ["x_lens", "s_1"], ["s_lengths"]),                                     # (N, 1)
        make("Equal", ["s_places", "s_lengths"], ["s_last"]),
        make("Where", ["s_last", "s_eos", "s_next"], ["s_targets"]),
        make("Greater", ["s_places", "s_lengths"], ["s_behind"]), make("Not", ["s_behind"], ["s_counted"]),
        *(node for name in ("s_read", "s_targets", "s_counted")
          for node in (make("Transpose", [name], [f"{name}_t"], perm=[1, 0]),
                       make("Unsqueeze", [f"{name}_t", "s_2"], [f"{name}_each"]))),                # (1 + T, N, 1)
        make("Concat", ["s_layers", "s_n", "s_widest"], ["s_state"], axis=0),
        make("ConstantOfShape", ["s_state"], ["s_zeros"]),
        make("Scan", ["s_zeros", "s_zeros", "s_read_each", "s_targets_each", "s_counted_each"],
             ["s_h", "s_c", "s_nll"], body=body, num_scan_inputs=3),
        make("ReduceSum", ["s_nll", "s_02"], ["nll"], keepdims=0)]
    stored = [*step.graph.initializer, tensor("s_eos", [[eos]]), tensor("s_layers", [layers]),
              tensor("s_widest", [widest]), tensor("s_first", 0), tensor("s_by", 1), tensor("s_02", [0, 2]),
              *(tensor(f"s_{i}", [i]) for i in range(3)), of(numpy.array(0, numpy.float32), "s_zero")]
    model = model_of(nodes, stored, {"x": ("N", "T"), "x_lens": ("N",)}, {"nll": ("N",)},
                     {**metadata, "comment": "the whole text", "vocab_size": about["vocab_size"]})
    del model.opset_import[:]
    model.opset_import.extend(step.opset_import)
    return model


def _reading(nodes, name):
    """Copies of nodes that read `name` where they read x."""
    for node in nodes:
        found = type(node)()
        found.CopyFrom(node)
        found.input[:] = [name if each == "x" else each for each in node.input]
        yield found


def model_of(nodes, stored, inputs, outputs, metadata):
    """A model with inputs and outputs of these shapes; inputs called x… are whole numbers."""
    onnx = package()
    infos = [info for name, shape in inputs.items() for info in _infos(
        {name: shape}, onnx.TensorProto.INT64 if name.startswith("x") else onnx.TensorProto.FLOAT)]
    graph = onnx.helper.make_graph(nodes, "rnnlm", infos, _infos(outputs), stored)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.helper.set_model_props(model, {name: str(value) for name, value in metadata.items()})
    return model


def _infos(shapes, kind=None):
    onnx = package()
    return [onnx.helper.make_tensor_value_info(name, kind or onnx.TensorProto.FLOAT, list(shape))
            for name, shape in shapes.items()]
