"""Gal and Ghahramani's LSTM and GRU: masks of each gate and of each stream, against naive loops in float64."""
import pytest
import torch
from conftest import SMALL, run_script
from naive import check_masks, check_near_float64, compare

from cells import CELLS
from embed_regularize import embedded_dropout
from evaluation import scoring
from model import RNNModel
from runtime.errors import InputError

T, B, E, H = 5, 3, 4, 6        # E: width of the input


def make(kind, dropouti=0.0, dropoutr=0.0, wdrop=0.0, sizes=(E, H)):
    """A cell that keeps in `seen` what it drew for its input (G, B, I)."""
    layer = CELLS[kind](*sizes, settings={"untied_masks": True, "dropouti": dropouti, "dropoutr": dropoutr,
                                          "wdrop": wdrop})
    layer.seen, draw = [], layer.input_masks

    def drawn(x):
        layer.seen.append(draw(x))
        return layer.seen[-1]
    layer.input_masks = drawn
    return layer


def of_gate(parameter, gate, width):
    return parameter[gate * width:(gate + 1) * width]


def loop(layer, seen, x, hidden, masks, factor):
    """Section 4 of the paper: gate by gate W (x · z_x) + b + U (h · z_h) + b, each gate with masks z of its own.

    seen (G, B, I) or None and masks (G, B, H) or (B, H), ones: z_x and z_h. factor: of weight drop.
    """
    width, gates = layer.hidden_size, layer.gates
    states = hidden if gates == 4 else (hidden,)
    outputs, ends = torch.empty(*x.shape[:2], width, dtype=x.dtype), [torch.empty_like(state) for state in states]
    for b in range(x.size(1)):
        h, c = states[0][0, b], states[-1][0, b]
        for t in range(len(x)):
            from_input, from_state = [], []
            for gate in range(gates):
                z_x = torch.ones_like(x[t, b]) if seen is None else seen[gate, b]
                z_h = masks[b] if masks.dim() == 2 else masks[gate, b]
                weight_ih, weight_hh, bias_ih, bias_hh = (of_gate(parameter, gate, width) for parameter in (
                    layer.weight_ih_l0, layer.weight_hh_l0 * factor, layer.bias_ih_l0, layer.bias_hh_l0))
                from_input.append(weight_ih @ (x[t, b] * z_x) + bias_ih)
                from_state.append(weight_hh @ (h * z_h) + bias_hh)
            if gates == 4:
                i, f, g, o = (a + b for a, b in zip(from_input, from_state))
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            else:
                r, z = ((a + b).sigmoid() for a, b in zip(from_input[:2], from_state))
                h = (1 - z) * (from_input[2] + r * from_state[2]).tanh() + z * h
            outputs[t, b] = h
        for end, state in zip(ends, (h, c)):
            end[0, b] = state
    return outputs, tuple(ends) if gates == 4 else ends[0]


def given(kind, steps=T, columns=B, inputs=E, width=H):
    torch.manual_seed(0)
    h, c = torch.randn(2, 1, columns, width).double()
    return torch.randn(steps, columns, inputs).double(), (h, c) if kind == "LSTM" else h


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("dropouts", [(0.4, 0.5), (0.4, 0), (0, 0.5), (0.4, 0.5, 0.3)])
@pytest.mark.parametrize("sizes", [(T, B, E, H), (2, 1, 3, 1), (3, 2, 1, 5)])
def test_the_layer_equals_a_naive_loop(kind, dropouts, sizes):
    """Outputs, states and the gradients of inputs, states and all parameters."""
    layer = make(kind, *dropouts, sizes=sizes[2:]).double()
    drew = compare(layer, lambda layer, x, hidden, masks, factors: loop(layer, layer.seen[0], x, hidden, masks,
                                                                        factors[0]), *given(kind, *sizes))
    gates, (_, columns, inputs, width) = layer.gates, sizes
    assert [z.shape for z in layer.seen if z is not None] == [(gates, columns, inputs)] * bool(dropouts[0])
    assert [z.shape for z in drew.masks if z is not None] == [(gates, columns, width)] * bool(dropouts[1])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("in_torch", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_single_and_reduced_precision_are_near_float64(kind, in_torch, dtype, monkeypatch):
    torch.manual_seed(0)
    layer = make(kind, 0.3, 0.5, 0.4, sizes=(30, 50))
    layer.matmul_dtype = dtype

    def exact(copy, x, hidden):
        return loop(copy, layer.seen[0].double(), x, hidden, copy.state_mask(None),
                    copy.weight_dropped(torch.ones_like(copy.weight_hh_l0)))
    x, hidden = given(kind, 7, 4, 30, 50)
    hidden = tuple(h.float() for h in hidden) if kind == "LSTM" else hidden.float()
    check_near_float64(layer, exact, x.float(), hidden, in_torch, monkeypatch)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_masks_are_of_training_and_of_one_window(kind):
    check_masks(lambda *dropouts: make(kind, 0.5, *dropouts).double(), *given(kind))
    layer, (x, hidden) = make(kind, 0.5).double(), given(kind)
    for _ in range(2):
        layer(x, hidden)
    assert not torch.equal(*layer.seen) and set(layer.seen[0].unique().tolist()) == {0, 2}
    assert len({tuple(mask.flatten().tolist()) for mask in layer.seen[0]}) == layer.gates
    layer.eval()(x, hidden)
    assert layer.seen[2] is None


def test_masks_of_a_layers_gates_are_of_its_input():
    """dropouti of the first layer's, dropouth of the others'; the model itself then drops neither."""
    model = RNNModel("LSTM", 40, 10, 14, 3, 0, dropouth=0.2, dropouti=0.6, dropoute=0, untied_masks=True)
    assert [rnn.dropouti for rnn in model.rnns] == [0.6, 0.2, 0.2]
    _, _, raw, dropped = model(torch.randint(40, (5, 4)), model.init_hidden(4), return_h=True)
    assert all(map(torch.equal, raw, dropped))
    with model.dropout_scaled(0.5):
        assert [rnn.dropouti for rnn in model.rnns] == [0.3, 0.1, 0.1]
    tied = RNNModel("LSTM", 40, 10, 14, 3, 0, dropouth=0.2, dropouti=0.6, dropoute=0)
    assert not any(rnn.dropouti for rnn in tied.rnns)


def test_a_model_that_never_drops_is_that_without_the_option():
    models = []
    for settings in {}, {"untied_masks": True, "word_masks": "stream"}:
        torch.manual_seed(0)
        models.append(RNNModel("LSTM", 40, 10, 14, 2, 0, 0, 0, 0, **settings))
    data = torch.randint(40, (5, 4))
    assert torch.equal(*(model(data, model.init_hidden(4))[0] for model in models))


# ---- words of each stream

def test_words_dropped_in_each_stream_equal_a_naive_loop():
    """Vectors and the gradient of the table: of stream b, word w counts by z[w, b] wherever it occurs."""
    torch.manual_seed(0)
    embed, words = torch.nn.Embedding(6, 4).double(), torch.randint(6, (9, 5))
    weights, state = torch.randn(9, 5, 4).double(), torch.get_rng_state()
    found = embedded_dropout(embed, words, 0.25, by_column=True)
    gradient, = torch.autograd.grad((found * weights).sum(), embed.weight)
    torch.set_rng_state(state)
    z = torch.nn.functional.dropout(torch.ones(6, 5).double(), 0.25)                           # (V, B)
    assert set(z.unique().tolist()) == {0, 4 / 3} and (z != z[:, :1]).any()
    wanted, d_table = torch.empty_like(found), torch.zeros(6, 4).double()
    for t in range(9):
        for b in range(5):
            word = int(words[t, b])
            wanted[t, b] = embed.weight[word] * z[word, b]
            d_table[word] += weights[t, b] * z[word, b]
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient, d_table)


@pytest.mark.parametrize(("word_masks", "both"), [("batch", 0.5), ("stream", 0.25)])
def test_how_often_two_streams_lose_a_word_together(word_masks, both):
    """With dropoute 0.5 half of the time, or a quarter where each has its own mask; within one stream all or none."""
    torch.manual_seed(0)
    model, seen = RNNModel("LSTM", 4000, 1, 2, 1, 0, 0, 0, dropoute=0.5, word_masks=word_masks), []
    model.rnns[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    words = torch.arange(3999).repeat(2)[:, None].expand(-1, 2)                                # (T, B): each word twice
    model(words, model.init_hidden(2))
    gone = seen[0][:, :, 0] == 0
    assert torch.equal(gone[:3999], gone[3999:])
    assert gone.all(1).float().mean().item() == pytest.approx(both, abs=0.03)
    with scoring.sampling(model):
        assert model.word_masks_by_column
    assert model.word_masks_by_column == (word_masks == "stream")


# ---- samples of the masks

@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_one_mask_of_each_gate_for_the_whole_text(kind):
    """Whatever the windows, a sample of the whole text has one draw of all masks, and drops no words."""
    torch.manual_seed(3)
    model = RNNModel(kind, 40, 10, 14, 2, 0.5, 0.2, 0.3, 0.2, dropoutr=0.4, untied_masks=True, word_masks="stream")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    stream, found = torch.randint(40, (30, 1)), []
    for bptt in 3, 7, 1000:
        torch.manual_seed(5)
        found.append(scoring.sample_score(model.double(), [stream], bptt, 1, one_mask=True))
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[2])
    assert not torch.allclose(scoring.sample_score(model, [stream], 3, 1, one_mask=True), found[0])
    plain = scoring.score(model, [stream], 5).logprobs
    torch.testing.assert_close(scoring.sample_score(model, [stream], 5, 2, factor=0.0), plain)


# ---- refused

@pytest.mark.parametrize(("words", "named"), [
    (["--model", "QRNN"], "--untied-masks is not supported by --model QRNN"),
    (["--model", "Mogrifier"], "--untied-masks is not supported by --model Mogrifier"),
    (["--gate", "capped"], "--gate plain"), (["--per-step-dropout"], "--per-step-dropout")])
def test_what_has_no_masks_of_gates_says_so(words, named, toy, tmp_path):
    said = run_script("main.py", "--data", toy, *SMALL, *words, "--untied-masks", cwd=tmp_path, status=1).stderr
    assert named in said and said.count("\n") == 1
    assert not list(tmp_path.glob("model*"))


def test_a_cell_without_them_is_not_built():
    with pytest.raises(InputError, match="RHN"):
        RNNModel("RHN", 40, 14, 14, 1, untied_masks=True)
