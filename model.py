"""The network (Merity et al. 2018, sections 2 and 4).

T window length, B columns, V vocabulary, E emsize, H nhid, N = T·B.
"""
import torch
from torch import nn
from torch.nn import functional as F

from embed_regularize import embedded_dropout
from errors import InputError
from flat_recurrence import recur_flat
from fused_softmax import available, fused_softmax
from locked_dropout import LockedDropout
from qrnn import QRNN
from recurrence import pays, recur
from splitcross import SplitCrossEntropyLoss
from weight_drop import call_with_weights, drop_weight

CELLS = ("LSTM", "GRU", "QRNN")


class RNNModel(nn.Module):
    """Embedding, a stack of recurrent layers, and a decoder, with the paper's dropouts between them.

    rnn_type: "LSTM", "GRU" or "QRNN". ntoken: V. ninp: E. nhid: H, width of all layers but the last, which is E wide
    when the weights are tied. Probabilities: dropout on the last layer's output, dropouth between layers, dropouti on
    the embedded input, dropoute on whole words, wdrop on the hidden-to-hidden weights (on all of a QRNN's layers),
    dropoutr on the state that these are multiplied by (Gal & Ghahramani 2016; not of a QRNN).
    tie_weights: the decoder's weight is the encoder's (Press & Wolf 2017; Inan et al. 2017), one tensor.

    The state dict has `encoder.weight`, `decoder.bias`, `rnns.{l}.weight_ih_l0` and so on (of a QRNN,
    `rnns.{l}.linear.weight` and `rnns.{l}.linear.bias`), whatever wdrop is, and
    `decoder.weight` only where it is not the encoder's. `product_dtype`: the type of the numbers that the recurrence's
    matrix products multiply, torch.bfloat16 or None for that of the weights. Raises ValueError for an unknown rnn_type.
    """

    def __init__(self, rnn_type, ntoken, ninp, nhid, nlayers,
                 dropout=0.5, dropouth=0.5, dropouti=0.5, dropoute=0.1, wdrop=0, tie_weights=True, dropoutr=0):
        super().__init__()
        if rnn_type not in CELLS:
            raise ValueError(f"rnn_type must be one of {', '.join(CELLS)}, not {rnn_type!r}")
        last = ninp if tie_weights else nhid
        widths = [ninp] + [nhid] * (nlayers - 1) + [last]
        self.rnn_type, self.ninp, self.nhid, self.nlayers = rnn_type, ninp, nhid, nlayers
        self.dropout, self.dropouth, self.dropouti, self.dropoute = dropout, dropouth, dropouti, dropoute
        self.wdrop, self.dropoutr = wdrop, dropoutr
        self.product_dtype = None
        self.tie_weights = tie_weights

        self.locked_dropout = LockedDropout()
        # As published, a tied last word learns from the softmax alone, not as an input: with the published vocabularies
        # it occurs in the test text only. An untied one would never learn at all.
        self.encoder = WordVectors(ntoken, ninp, padding_idx=ntoken - 1 if tie_weights else None)
        if rnn_type == "QRNN":
            self.rnns = nn.ModuleList(QRNN(n_in, n_out, window=1 if layer else 2)
                                      for layer, (n_in, n_out) in enumerate(zip(widths, widths[1:])))
        else:
            cell = nn.LSTM if rnn_type == "LSTM" else nn.GRU
            self.rnns = nn.ModuleList(cell(n_in, n_out) for n_in, n_out in zip(widths, widths[1:]))
        self.decoder = nn.Linear(last, ntoken)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        if tie_weights:
            self.decoder.weight = self.encoder.weight
            self.register_state_dict_post_hook(_leave_out_tied_weight)
            self.register_load_state_dict_pre_hook(_put_back_tied_weight)

    def forward(self, input, hidden, return_h=False):
        """input (T, B) word ids, hidden as from `init_hidden` -> features (N, E or H), new hidden.

        With `return_h` also each layer's output (T, B, H) before and after dropout, for TAR and AR.
        """
        x = embedded_dropout(self.encoder, input, self.dropoute if self.training else 0)  # (T, B, E)
        x = self.locked_dropout(x, self.dropouti)
        raw_outputs, outputs, new_hidden = [], [], []
        for layer, (rnn, h) in enumerate(zip(self.rnns, hidden), start=1):
            raw, h = self._recur(rnn, x, h)                                      # (T, B, H)
            x = self.locked_dropout(raw, self.dropouth if layer < self.nlayers else self.dropout)
            raw_outputs.append(raw)
            outputs.append(x)
            new_hidden.append(h)
        features = x.flatten(0, 1)                                               # (N, E)
        return (features, new_hidden, raw_outputs, outputs) if return_h else (features, new_hidden)

    def _recur(self, rnn, x, h):
        """One layer over the window. DropConnect: one mask on the hidden-to-hidden matrix for all its steps."""
        dropped = self.training and self.wdrop
        if self.rnn_type == "QRNN":
            weight = drop_weight(rnn.linear.weight, self.wdrop) if dropped else rnn.linear.weight
            return rnn(x, h, weight, self.product_dtype)
        weight_hh = drop_weight(rnn.weight_hh_l0, self.wdrop) if dropped else rnn.weight_hh_l0
        weights = rnn.weight_ih_l0, weight_hh, rnn.bias_ih_l0, rnn.bias_hh_l0
        if self.training and self.dropoutr:
            mask = F.dropout(x.new_ones(x.size(1), rnn.hidden_size), self.dropoutr)     # (B, H), for all time steps
            return recur(self.rnn_type, x, h, *weights, self.product_dtype, mask)
        if x.is_cuda:
            return recur_flat(self.rnn_type, x, h, *weights, self.product_dtype)
        if self.product_dtype or pays(x, weight_hh):
            return recur(self.rnn_type, x, h, *weights, self.product_dtype)
        return call_with_weights(rnn, {"weight_hh_l0": weight_hh}, x, h) if dropped else rnn(x, h)

    def init_hidden(self, bsz):
        """Zero state: for each layer h (1, bsz, H), for an LSTM the pair (h, c); of a QRNN c, and in its first layer
        the pair of c and the last input (1, bsz, E)."""
        zeros = [self.encoder.weight.new_zeros(1, bsz, rnn.hidden_size) for rnn in self.rnns]
        if self.rnn_type == "QRNN":
            zeros[0] = (zeros[0], self.encoder.weight.new_zeros(1, bsz, self.ninp))
        return [(z, z.clone()) for z in zeros] if self.rnn_type == "LSTM" else zeros


class WordVectors(nn.Embedding):
    """An embedding whose gradient on a GPU is taken without the host: that of torch's cannot be recorded as a graph."""

    def forward(self, words):
        if not self.weight.is_cuda:
            return super().forward(words)
        vectors = self.weight.index_select(0, words.flatten())                   # (N, E)
        if self.padding_idx is not None:
            vectors = torch.where((words == self.padding_idx).view(-1, 1), vectors.detach(), vectors)
        return vectors.view(*words.shape, -1)                                    # (T, B, E)


def _leave_out_tied_weight(model, state, prefix, local_metadata):
    del state[prefix + "decoder.weight"]


def _put_back_tied_weight(model, state, prefix, *args):
    if prefix + "encoder.weight" in state:
        state.setdefault(prefix + "decoder.weight", state[prefix + "encoder.weight"])


def build(settings, ntoken):
    """The network and its softmax as the flags in `settings` (a dict) describe them -> RNNModel, loss module."""
    if settings["model"] == "QRNN" and settings["dropoutr"]:
        raise InputError("--dropoutr is for LSTM and GRU: a QRNN multiplies no weights by its state")
    names = ("nhid", "nlayers", "dropout", "dropouth", "dropouti", "dropoute", "wdrop", "dropoutr")
    model = RNNModel(settings["model"], ntoken, settings["emsize"], tie_weights=settings["tied"],
                     **{name: settings[name] for name in names})
    return model, SplitCrossEntropyLoss(model.decoder.in_features, settings["cutoffs"])


def set_precision(modules, precision):
    """Let a model and its softmax, on their device, multiply in bfloat16 if `precision` is "bf16"; else in fp32."""
    model, criterion = modules
    model.product_dtype = criterion.product_dtype = torch.bfloat16 if precision == "bf16" else None
    device = model.encoder.weight.device
    criterion.fused = fused_softmax if device.type == "cuda" and available(device.index or 0) else None


def count_parameters(*modules):
    """Number of trained scalars, a tied weight once."""
    return sum(p.numel() for p in {p for module in modules for p in module.parameters()})


def is_finite(modules):
    """Whether every parameter is a finite number."""
    return all(bool(torch.isfinite(p).all()) for module in modules for p in module.parameters())
