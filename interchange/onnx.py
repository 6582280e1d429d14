"""ONNX: a model as sherpa-onnx and other speech engines read recurrent language models.

`NAME.onnx` is one step with its state, for recognition as one speaks, `NAME.scorer.onnx` a scorer of whole hypotheses,
`NAME.tokens.txt` says which id each token has. Quantised ones are `NAME.int8.onnx` and `NAME.scorer.int8.onnx`. What is
written was computed by onnxruntime before, and compared. Needs the packages onnx and onnxruntime.
"""
import logging
import math
import os
import tempfile
from contextlib import suppress

import numpy
import torch
from tqdm import tqdm

import model as network
from checkpoint import vocabulary_of
from data import EOS, UNK
from interchange import onnx_graph
from interchange.foreign import read_words
from interchange.settings import refuse
from runtime.errors import InputError
from runtime.log import log
from runtime.paths import atomic_write, check_output

MODEL_TYPE, AUTHOR = "rnnlm", "awd-lstm"
LARGEST = 2**31 - 2**20               # bytes of a model in one file
TOLERANCE = 1e-3                      # of log-probabilities; what is usual is a hundredth of it
END_NAMES = ("<sos/eos>", "</s>", "<s>", EOS)          # of recognisers for the end of a line, the first of them
BATCH = 32


def write(contents, state, path, words_seen, int8_lines=None, tokens=None):
    """A model as ONNX models beside `path`.

    int8_lines: lines of ids; with them also quantised models, and the perplexity of these lines under both. tokens: the
    file with a recogniser's tokens, whose ids the models then take; None for the model's own.
    """
    settings, words = contents["settings"], vocabulary_of(contents)
    refuse(settings, "onnx", set(onnx_graph.STEPS), {"split", "mixture"})
    onnx_graph.package()
    if EOS not in words:
        raise InputError(f"the model has no {EOS}, with which texts begin and end there")
    stem = path.removesuffix(".onnx")
    check_names(path, stem)
    eos = words.index(EOS)
    listed, table, end = (list(words), None, eos) if tokens is None else read_tokens(tokens, words)
    if 4 * sum(tensor.numel() for tensor in state.values()) > LARGEST:
        raise InputError("the model has more than 2 GiB of weights, which no single ONNX file holds")
    about = {"model_type": MODEL_TYPE, "version": 1, "model_author": AUTHOR, "sos_id": eos, "eos_id": eos}
    ours = network.build({**settings, "pdr": 0.0}, len(words)).eval()
    ours.load_state_dict(state)
    step = onnx_graph.step_model(ours, about)
    check(step, onnx_graph.scorer_model(step, about), ours, eos)
    steps = {"": step}
    if int8_lines is not None:
        steps[".int8"] = quantised(step)
        for kind, each in zip(("fp32", "int8"), steps.values()):
            ppl = perplexity(onnx_graph.scorer_model(each, about), int8_lines, kind)
            log(f"| {kind} | ppl {ppl:.2f} | each line by itself | {len(each.SerializeToString()) / 2**20:.1f} MiB")
    if table:
        about |= {"sos_id": end, "eos_id": end}
        step = onnx_graph.step_model(ours, about, table)
        steps = {suffix: quantised(step) if suffix else step for suffix in steps}
    for suffix, each in steps.items():
        for name, model in zip(model_names(stem, suffix), (each, onnx_graph.scorer_model(each, about))):
            with atomic_write(name, "wb") as file:
                file.write(model.SerializeToString())
    for name in () if ".int8" in steps else model_names(stem, ".int8"):
        with suppress(FileNotFoundError):
            os.unlink(name)                                # of an earlier export, of another model
    with atomic_write(f"{stem}.tokens.txt") as file:
        file.writelines(f"{token} {i}\n" for i, token in enumerate(listed))


def model_names(stem, suffix):
    """The files of the step and of the scorer."""
    return f"{stem}{suffix}.onnx", f"{stem}.scorer{suffix}.onnx"


def check_names(path, stem):
    """InputError for what cannot be written, or is there and is none of ours. path: as typed, with .onnx or without."""
    folder, name = os.path.split(stem)
    if os.path.isdir(path) or not name:
        raise InputError(f"{path} is a folder; give the name of a file in it, such as lm.onnx")
    if not os.path.isdir(folder or "."):
        raise InputError(f"{folder}: no such folder; make it first")
    models, tokens = (*model_names(stem, ""), *model_names(stem, ".int8")), f"{stem}.tokens.txt"
    for name in (*models, tokens):
        check_output(name)
    there = [name for name in models if os.path.exists(name)]
    other = [name for name in there if not is_ours(name)]
    if not there and os.path.exists(tokens):                  # which says nothing of who wrote it
        other = [tokens]
    if other:
        raise InputError(f"{other[0]} is there, and is not what an earlier export wrote; give another name")


def is_ours(path):
    try:
        about = onnx_graph.package().load(path, load_external_data=False).metadata_props
    except Exception:      # a file of another kind raises almost anything
        return False
    return ("model_author", AUTHOR) in ((entry.key, entry.value) for entry in about)


def session(model):
    import onnxruntime as runtime
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")       # other work may be on the machine
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def read_tokens(path, words):
    """A recogniser's tokens, one a line with its id or without -> tokens, the model's id for each, and the end's there.

    The end of a line has another name there; tokens that the model does not know are its <unk>.
    """
    listed = []
    for i, line in enumerate(read_words(path)):
        token, _, number = line.strip().rpartition(" ")
        if not token:
            token, number = number, str(i)
        if number != str(i):
            raise InputError(f"{path}: line {i + 1} is not a token and its id {i}")
        listed.append(token)
    ids = {word: i for i, word in enumerate(words)}
    end = next((name for name in END_NAMES if name in listed), None)
    if end is None:
        raise InputError(f"{path}: has none of {' '.join(END_NAMES)} as the end of a line")
    known = {**ids, **dict.fromkeys(END_NAMES, ids[EOS])}
    unknown = [token for token in listed if token not in known]
    if unknown and UNK not in ids:
        raise InputError(f"{path}: {unknown[0]} is not in the model's vocabulary, and neither is {UNK}")
    if len(unknown) > len(listed) / 2:
        raise InputError(f"{path}: {len(unknown):,} of {len(listed):,} tokens are not in the model's vocabulary, such "
                         f"as {unknown[-1]}; give the tokens that its training text was cut into")
    if unknown:
        log(f"| {len(unknown):,} of {len(listed):,} tokens of {path} are read as {UNK}: {' '.join(unknown[:8])}")
    return listed, [known.get(token, ids.get(UNK)) for token in listed], listed.index(end)


def check(step, scorer, ours, eos):
    """InputError unless onnxruntime computes, from both models, what `ours` does with some texts."""
    from onnxruntime import __version__ as version
    draw = torch.Generator().manual_seed(1)
    x = torch.randint(len(ours.encoder.weight), (3, 12), generator=draw)                          # (N, T)
    lengths = torch.tensor([12, 7, 0])
    read = torch.cat([torch.full((3, 1), eos), x], 1)                                             # (N, 1 + T)
    with torch.no_grad():
        features, _ = ours(read.t(), ours.init_hidden(3))
        expected = ours.logprob(features).view(13, 3, -1)                                         # (1 + T, N, V)
    run = session(step)
    states = [numpy.zeros([part if isinstance(part, int) else 3 for part in info.shape], numpy.float32)
              for info in run.get_inputs()[1:]]
    worst = 0.0
    for ids, logprobs in zip(read.t(), expected):
        computed, *states = run.run(None, dict(zip(("x", "h0", "c0"), (ids[:, None].numpy(), *states))))
        worst = max(worst, float(numpy.abs(computed - logprobs.numpy()).max()))
    nll, = session(scorer).run(None, {"x": x.numpy(), "x_lens": lengths.numpy()})
    for row, (ids, length) in enumerate(zip(x.tolist(), lengths.tolist())):
        total = -sum(expected[t, row, i].item() for t, i in enumerate([*ids[:length], eos]))
        worst = max(worst, abs(nll[row] - total) / (length + 1))
    if not worst < TOLERANCE:
        raise InputError(f"onnxruntime {version} computes something else from the ONNX model: "
                         f"log-probabilities differ by {worst:.2g}; nothing was written")
    log(f"| onnxruntime {version} gives the model's log-probabilities within {worst:.1g}")


def quantised(step):
    """A step with int8 weights, one scale for each row or word; activations are quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    logging.getLogger().setLevel(logging.ERROR)            # it recommends what is done with other models
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "step.onnx")
        quantize_dynamic(step, path, weight_type=QuantType.QInt8, per_channel=True)
        return onnx_graph.package().load(path)


def perplexity(scorer, lines, what):
    """Of lines of ids, each read from a zero state after the end of another, with their ends."""
    run, nats = session(scorer), 0.0
    lines = sorted(lines, key=len)
    for start in tqdm(range(0, len(lines), BATCH), desc=what, disable=None, leave=False):
        batch = lines[start:start + BATCH]
        x = numpy.zeros((len(batch), len(batch[-1])), numpy.int64)
        for row, ids in zip(x, batch):
            row[:len(ids)] = ids
        nll, = run.run(None, {"x": x, "x_lens": numpy.array(list(map(len, batch)), numpy.int64)})
        nats += float(nll.astype(numpy.float64).sum())
    return math.exp(nats / sum(len(ids) + 1 for ids in lines))
