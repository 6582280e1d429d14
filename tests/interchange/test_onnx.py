"""ONNX models against the model itself, as onnxruntime and sherpa-onnx compute them."""
import itertools
import os

import numpy
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from models import SHAPES, WORDS, contents_of, logprobs  # noqa: E402

import export  # noqa: E402
from interchange import onnx as rnnlm  # noqa: E402
from runtime.errors import InputError  # noqa: E402


def session(path):
    onnx.checker.check_model(str(path), full_check=True)
    return rnnlm.session(onnx.load(str(path)))


def score(model, ids):
    """Minus the log-probability of ids and of the end of a line, after the end of another."""
    expected = logprobs(model, [0, *ids])[0].double()
    return -sum(expected[t, i].item() for t, i in enumerate([*ids, 0]))


def steps(run, ids):
    """Log-probabilities after each of ids, by steps -> (T, V)."""
    states = [numpy.zeros([size if isinstance(size, int) else 1 for size in info.shape], numpy.float32)
              for info in run.get_inputs()[1:]]
    found = []
    for i in ids:
        logprobs, *states = run.run(None, dict(zip(("x", "h0", "c0"), (numpy.array([[i]]), *states))))
        found.append(logprobs[0])
    return numpy.stack(found)


@pytest.mark.parametrize("kind", SHAPES)
def test_the_step_and_the_scorer(kind, tmp_path):
    model, contents = contents_of(**SHAPES[kind])
    rnnlm.write(contents, model.state_dict(), str(tmp_path / "lm.onnx"), None)
    assert sorted(os.listdir(tmp_path)) == ["lm.onnx", "lm.scorer.onnx", "lm.tokens.txt"]
    run = session(tmp_path / "lm.onnx")
    assert [info.name for info in run.get_inputs()] == ["x", "h0", "c0"]
    assert [info.name for info in run.get_outputs()] == ["log_softmax", "next_h0", "next_c0"]
    about = run.get_modelmeta().custom_metadata_map
    assert about["model_type"] == "rnnlm" and about["sos_id"] == about["eos_id"] == "0"
    assert [int(about["num_layers"]), int(about["hidden_size"])] == [run.get_inputs()[1].shape[i] for i in (0, 2)]
    assert int(about["vocab_size"]) == len(WORDS) and int(about["embedding_dim"]) == 5
    ids = [3, 0, 7, 7, 20, 1, 11]
    assert numpy.abs(steps(run, ids) - logprobs(model, ids)[0].numpy()).max() < 1e-5

    run = session(tmp_path / "lm.scorer.onnx")
    assert [info.name for info in run.get_inputs()] == ["x", "x_lens"]
    texts = [[3, 7, 7, 20, 1, 11], [4, 5], []]
    x = numpy.array([text + [9] * (6 - len(text)) for text in texts])              # what lies behind does not count
    found, = run.run(None, {"x": x, "x_lens": numpy.array([6, 2, 0])})
    assert found == pytest.approx([score(model, text) for text in texts], abs=1e-4)
    assert (tmp_path / "lm.tokens.txt").read_text().splitlines()[2:4] == ["café 2", "don't 3"]


def test_a_model_that_onnxruntime_computes_otherwise_is_not_written(tmp_path, monkeypatch):
    model, contents = contents_of()
    monkeypatch.setitem(rnnlm.onnx_graph.STEPS, "LSTM", lambda graph, cell, layer, x, state: (state[0], state))
    with pytest.raises(InputError, match="nothing was written"):
        rnnlm.write(contents, model.state_dict(), str(tmp_path / "lm.onnx"), None)
    assert not os.listdir(tmp_path)


def test_a_name_that_is_none_of_a_file(tmp_path, monkeypatch):
    model, contents = contents_of()
    monkeypatch.chdir(tmp_path)
    for name, says in ((".", "is a folder"), ("./", "is a folder"), (str(tmp_path), "is a folder"),
                       ("nowhere/lm.onnx", "nowhere: no such folder")):
        with pytest.raises(InputError, match=says):
            rnnlm.write(contents, model.state_dict(), name, None)
    assert not os.listdir(tmp_path)
    (tmp_path / "lm").mkdir()                                          # in nobody's way
    rnnlm.write(contents, model.state_dict(), "lm.onnx", None)
    assert {"lm.onnx", "lm.scorer.onnx"} < set(os.listdir(tmp_path))


@pytest.mark.parametrize("kind", ["lstm", "gru", "untied", "mixture"])
def test_int8(kind, tmp_path, capsys):
    """Its weights take a quarter of the room, its perplexity is logged beside that of fp32, and both are true."""
    model, contents = contents_of(**{"emsize": 128, "nhid": 160, **SHAPES[kind]})
    for parameter in model.parameters():
        parameter.data.mul_(0.3)
    lines = [[3, 7, 20, 1], [11], [], [4, 5, 6] * 9] * 20
    rnnlm.write(contents, model.state_dict(), str(tmp_path / "lm.onnx"), None, int8_lines=lines)
    logged = {line.split()[1]: float(line.split()[4]) for line in capsys.readouterr().out.splitlines()
              if line.split()[3] == "ppl"}
    scores = {}
    for suffix, name in (("", "fp32"), (".int8", "int8")):
        found = scores[name] = {}
        run = session(tmp_path / f"lm.scorer{suffix}.onnx")
        for ids in lines[:4]:
            found[len(ids)] = run.run(None, {"x": numpy.array([ids], numpy.int64).reshape(1, -1),
                                             "x_lens": numpy.array([len(ids)])})[0][0]
        ppl = numpy.exp(sum(found.values()) / sum(len(ids) + 1 for ids in lines[:4]))
        assert logged[name] == pytest.approx(ppl, rel=2e-3)
    assert logged["fp32"] == pytest.approx(numpy.exp(sum(score(model, ids) for ids in lines[:4]) / 36), rel=1e-3)
    assert scores["int8"] != scores["fp32"] and scores["int8"] == pytest.approx(scores["fp32"], rel=0.1)
    for name in ("lm{}.onnx", "lm.scorer{}.onnx"):
        small, large = (os.path.getsize(tmp_path / name.format(suffix)) for suffix in (".int8", ""))
        assert small < 0.45 * large


RECOGNISER = ["<blk>", "<sos/eos>", "<unk>", "w3", "w7", "café", "w1", "new"]


def write_with_tokens(tmp_path, model, contents):
    (tmp_path / "tokens.txt").write_text("".join(f"{token} {i}\n" for i, token in enumerate(RECOGNISER)))
    rnnlm.write(contents, model.state_dict(), str(tmp_path / "lm.onnx"), None, tokens=str(tmp_path / "tokens.txt"))


def test_the_ids_of_a_recogniser(tmp_path, capsys):
    model, contents = contents_of()
    write_with_tokens(tmp_path, model, contents)
    assert "2 of 8 tokens" in capsys.readouterr().out                              # <blk> and new
    run = session(tmp_path / "lm.onnx")
    about = run.get_modelmeta().custom_metadata_map
    assert (about["sos_id"], about["eos_id"], about["vocab_size"]) == ("1", "1", "8")
    ours = [1, 0, 1, *(WORDS.index(token) for token in RECOGNISER[3:7]), 1]
    expected = logprobs(model, [0, ours[3], ours[5]])[0].numpy()[:, ours]
    assert numpy.abs(steps(run, [1, 3, 5]) - expected).max() < 1e-5
    found, = session(tmp_path / "lm.scorer.onnx").run(None, {"x": numpy.array([[3, 5, 4]]), "x_lens": numpy.array([3])})
    assert found[0] == pytest.approx(score(model, [ours[3], ours[5], ours[4]]), abs=1e-4)
    assert (tmp_path / "lm.tokens.txt").read_text() == (tmp_path / "tokens.txt").read_text()


@pytest.mark.parametrize(("text", "says"), [
    ("w1 0\nw2 1\n", "end of a line"), ("<s> 0\nw1 2\n", "line 2"), ("<s>\na\nb\nc\nw1\n", "3 of 5 tokens"),
    (None, "tokens.txt")])
def test_tokens_that_cannot_be_meant(text, says, tmp_path):
    model, contents = contents_of()
    if text is not None:
        (tmp_path / "tokens.txt").write_text(text)
    with pytest.raises((InputError, OSError), match=says):
        rnnlm.write(contents, model.state_dict(), str(tmp_path / "lm.onnx"), None, tokens=str(tmp_path / "tokens.txt"))
    assert not (tmp_path / "lm.onnx").exists()


def test_other_files_are_not_overwritten(tmp_path):
    model, contents = contents_of()

    def write():
        rnnlm.write(contents, model.state_dict(), str(tmp_path / "lm.onnx"), None)
    write()
    first = (tmp_path / "lm.onnx").read_bytes()
    model, contents = contents_of(model="GRU")
    write()
    assert (tmp_path / "lm.onnx").read_bytes() != first
    rnnlm.write(contents, model.state_dict(), str(tmp_path / "lm.onnx"), None, int8_lines=[[1, 2]])
    assert len(os.listdir(tmp_path)) == 5
    write()                                                                        # no int8 model of another export
    assert sorted(os.listdir(tmp_path)) == ["lm.onnx", "lm.scorer.onnx", "lm.tokens.txt"]
    (tmp_path / "lm.int8.onnx").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"lm\.int8\.onnx"):
        write()
    for name in ("lm.onnx", "lm.tokens.txt"):
        for file in tmp_path.iterdir():
            file.unlink()
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(InputError, match=name):
            write()
        assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_bytes() == b"mine"
    (tmp_path / "lm.tokens.txt").unlink()


def test_what_has_no_such_model_is_refused_by_name(tmp_path):
    for words, change, says in ((WORDS[1:], {}, "<eos>"), (WORDS, {"model": "New"}, "--model New"),
                                (WORDS, {"softmax": "new"}, "--softmax new")):
        model, contents = contents_of(words)
        contents["settings"].update(change)
        with pytest.raises(InputError, match=says):
            rnnlm.write(contents, model.state_dict(), str(tmp_path / "lm.onnx"), None)
    assert not os.listdir(tmp_path)


def test_as_a_user_types_it(trained, toy, tmp_path, call):
    """The perplexity of a text is that of evaluate.py, each line by itself."""
    said = call("export.py", "--checkpoint", trained / "toy.pt", "--to", "onnx", "lm.onnx", "--int8", toy / "valid.txt")
    fp32, int8 = (float(line.split()[4]) for line in said.splitlines() if " ppl " in line)
    call("evaluate.py", "--checkpoint", trained / "toy.pt", "--text", toy / "valid.txt", "--context", "reset",
         "--device", "cpu", "--precision", "fp32", "--per-token", "tokens.tsv")
    rows = (tmp_path / "tokens.tsv").read_text().splitlines()
    column = rows[0].split("\t").index("logprob")
    mean = -sum(float(row.split("\t")[column]) for row in rows[1:]) / len(rows[1:])
    assert fp32 == pytest.approx(numpy.exp(mean), abs=0.006) and int8 == pytest.approx(fp32, rel=0.05)
    assert {"lm.onnx", "lm.int8.onnx", "lm.scorer.onnx", "lm.scorer.int8.onnx", "lm.tokens.txt"} <= set(
        os.listdir(tmp_path))


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(package, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(InputError, match="pip install onnx onnxruntime"):
        export.main(["--checkpoint", str(trained / "toy.pt"), "--to", "onnx", str(tmp_path / "lm.onnx")])
    assert not list(tmp_path.iterdir())


# ---- sherpa-onnx, with a recogniser that hears nothing and only knows what may follow what

def made(path, nodes, inputs, outputs, stored=(), **about):
    """A model of nodes (kind, inputs, outputs, attributes); inputs and outputs: {name: (type, shape)}."""
    def infos(described):
        return [onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), shape)
                for name, (kind, shape) in described.items()]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, ins, outs, **attributes) for kind, ins, outs, attributes in nodes], "fake",
        infos(inputs), infos(outputs), [onnx.numpy_helper.from_array(array, name) for name, array in stored])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.helper.set_model_props(model, {name: str(value) for name, value in about.items()})
    onnx.save(model, path)


def make_recogniser(folder, follows, frames):
    """A transducer over RECOGNISER. follows (V, V): logits of a token after another. frames: how many it hears."""
    size = len(RECOGNISER)
    made(str(folder / "decoder.onnx"),
         [("Gather", ["y", "last"], ["y_last"], {"axis": 1}), ("Max", ["y_last", "zero"], ["y_some"], {}),
          ("Gather", ["follows", "y_some"], ["decoder_out"], {})],
         {"y": ("INT64", ["N", 2])}, {"decoder_out": ("FLOAT", ["N", size])},
         [("follows", follows.astype(numpy.float32)), ("last", numpy.array(1)), ("zero", numpy.array(0))],
         vocab_size=size, context_size=2)
    made(str(folder / "joiner.onnx"), [("Add", ["encoder_out", "decoder_out"], ["logit"], {})],
         {"encoder_out": ("FLOAT", ["N", size]), "decoder_out": ("FLOAT", ["N", size])},
         {"logit": ("FLOAT", ["N", size])}, joiner_dim=size)
    silence = ("silence", numpy.zeros((1, frames, size), numpy.float32))
    # The first frame's first number, times nothing, for each of the batch.
    zeros = [("ReduceSum", ["x", "axes"], ["sums"], {}), ("Mul", ["sums", "none"], ["nothing"], {}),
             ("Add", ["nothing", "silence"], ["encoder_out"], {})]
    stored = [silence, ("axes", numpy.array([1, 2])), ("none", numpy.array(0, numpy.float32))]
    made(str(folder / "encoder.onnx"),
         [*zeros, ("Mul", ["x_lens", "no_length"], ["no_lengths"], {}),
          ("Add", ["no_lengths", "length"], ["encoder_out_lens"], {})],
         {"x": ("FLOAT", ["N", "T", 80]), "x_lens": ("INT64", ["N"])},
         {"encoder_out": ("FLOAT", ["N", frames, size]), "encoder_out_lens": ("INT64", ["N"])},
         [*stored, ("no_length", numpy.array(0)), ("length", numpy.array(frames))], model_type="conformer")
    made(str(folder / "streaming.onnx"),
         [*zeros, ("Identity", ["h"], ["next_h"], {}), ("Identity", ["c"], ["next_c"], {})],
         {"x": ("FLOAT", ["N", 9, 80]), "h": ("FLOAT", [1, "N", 4]), "c": ("FLOAT", [1, "N", 4])},
         {"encoder_out": ("FLOAT", ["N", frames, size]), "next_h": ("FLOAT", [1, "N", 4]),
          "next_c": ("FLOAT", [1, "N", 4])},
         stored, model_type="lstm", num_encoder_layers=1, T=9, decode_chunk_len=4, rnn_hidden_size=4, d_model=4)
    return {name: str(folder / f"{name}.onnx") for name in ("decoder", "joiner")} | {
        "tokens": str(folder / "tokens.txt"), "decoding_method": "modified_beam_search"}


def test_sherpa_onnx_adds_our_log_probabilities_to_what_it_hears(tmp_path):
    """Streaming, with the step: what it says it took of the model for each token is what ours says."""
    sherpa = pytest.importorskip("sherpa_onnx")
    model, contents = contents_of()
    write_with_tokens(tmp_path, model, contents)
    follows = numpy.full((8, 8), -30.0)
    for before, after in ((0, 3), (3, 5), (5, 4), (4, 6), (6, 3)):
        follows[before, after] = 30
    names = make_recogniser(tmp_path, follows, frames=2)
    recogniser = sherpa.OnlineRecognizer.from_transducer(
        encoder=str(tmp_path / "streaming.onnx"), **names, lm=str(tmp_path / "lm.onnx"), lm_scale=0.5)
    stream = recogniser.create_stream()
    stream.accept_waveform(16000, numpy.zeros(16000, numpy.float32))
    while recogniser.is_ready(stream):
        recogniser.decode_stream(stream)
    tokens, found = recogniser.tokens(stream), recogniser.lm_probs(stream)
    assert len(tokens) > 5 and tokens[:5] == ["w3", "café", "w7", "w1", "w3"]
    ids = [WORDS.index(token) for token in tokens]
    expected = logprobs(model, [0, *ids])[0]
    assert found == pytest.approx([expected[t, i].item() for t, i in enumerate(ids)], abs=1e-4)


def test_sherpa_onnx_takes_the_hypothesis_that_we_find_likeliest(tmp_path):
    """Of whole recordings, with the scorer: of hypotheses that sound alike."""
    sherpa = pytest.importorskip("sherpa_onnx")
    model, contents = contents_of()
    write_with_tokens(tmp_path, model, contents)
    follows = numpy.full((8, 8), -30.0)
    follows[:, [3, 6]] = 30
    names = make_recogniser(tmp_path, follows, frames=3)
    recogniser = sherpa.OfflineRecognizer.from_transducer(
        encoder=str(tmp_path / "encoder.onnx"), **names, lm=str(tmp_path / "lm.scorer.onnx"), lm_scale=1.0,
        max_active_paths=16)
    stream = recogniser.create_stream()
    stream.accept_waveform(16000, numpy.zeros(16000, numpy.float32))
    recogniser.decode_stream(stream)
    best = min(itertools.product(["w3", "w1"], repeat=3),
               key=lambda tokens: score(model, [WORDS.index(token) for token in tokens]))
    assert stream.result.tokens == list(best)
