"""The network (Merity et al. 2018, sections 2 and 4).

T window length, B batch size, V vocabulary, E emsize, H nhid, F nhidlast, N = T·B.
"""
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from cells import CELLS
from embed_regularize import embedded_dropout
from locked_dropout import LockedDropout
from ops import few
from past_decode import PastDecoder
from runtime import options, values
from runtime.errors import InputError
from runtime.options import ARCHITECTURE, MODEL, flags_of, setting
from runtime.values import non_negative, positive, probability, width
from softmaxes import SOFTMAXES

DROPOUTS = ("dropout", "dropouth", "dropouti", "dropoute", "wdrop", "dropoutr", "dropoutp")   # of model and cells
OPTIONAL = {"wdrop", "dropoutr", "untied_masks"}     # of dropouts inside a cell, which not every cell supports


@dataclass(frozen=True)
class ModelConfig:
    """What a model is, and what it drops in training. Each field is the flag of its name, here with its default.

    specific: what cells and softmaxes need to know besides, by their own flags' names, such as `cutoffs`.
    """
    model: str = setting("LSTM", "recurrent cell; a GRU needs a lower --lr than sgd's 30, such as 10", choices=CELLS,
                         kept=ARCHITECTURE)
    emsize: int = setting(400, "width of word vectors", width, "N", kept=ARCHITECTURE)
    nhid: int = setting(1150, "hidden units per layer", width, "N", kept=ARCHITECTURE)
    nhidlast: int | None = setting(
        None, "hidden units of the last layer; if not given --emsize, or --nhid with --no-tied or --skip-output. Where "
        "the decoder takes another width, a linear map lies between", width, "N", kept=ARCHITECTURE)
    nlayers: int = setting(3, "recurrent layers", values.few, "N", kept=ARCHITECTURE)
    tied: bool = setting(True, "one matrix for encoder and decoder", bool, kept=ARCHITECTURE)
    skip_output: bool = setting(False, "prediction from the sum of all layers' outputs", bool, only_true=True,
                                kept=ARCHITECTURE)
    softmax: str = setting("split", "split (full, or adaptive with --cutoffs) or mixture (of several full ones)",
                           choices=SOFTMAXES, kept=ARCHITECTURE)
    init_range: float = setting(0.1, "embedding's and decoder's initial weights: uniform from -X to X", positive, "X",
                                kept=ARCHITECTURE)
    dropout: float = setting(0.4, "dropout on the last layer's output", probability, "P", kept=MODEL)
    dropouth: float = setting(0.3, "dropout on the output of the layers below", probability, "P", kept=MODEL)
    dropouti: float = setting(0.65, "dropout on the embedded input", probability, "P", kept=MODEL)
    dropoute: float = setting(0.1, "dropout on whole words of the input", probability, "P", kept=MODEL)
    wdrop: float = setting(0.5, "dropout on the hidden-to-hidden weights; of a QRNN, on all its layers' weights",
                           probability, "P", kept=MODEL)
    dropoutr: float = setting(0.0, "dropout on the state that the hidden-to-hidden weights are multiplied by, one mask "
                              "for a window (Gal and Ghahramani's)", probability, "P", kept=MODEL)
    dropoutp: float = setting(0.0, "dropout on the output of the linear map between the last layer and the decoder, "
                              "where their widths differ; a mask for every step (Melis et al.)", probability, "P",
                              kept=MODEL)
    per_step_dropout: bool = setting(False, "masks of --dropout, --dropouth, --dropouti and --dropoutl drawn anew at "
                                     "every step, not one for a window", bool, only_true=True, kept=MODEL)
    untied_masks: bool = setting(False, "masks of its own for each gate, on a layer's input (--dropouti, --dropouth) "
                                 "and on its state (--dropoutr): Gal and Ghahramani's untied weights", bool,
                                 only_true=True, kept=MODEL)
    word_masks: str = setting("batch", "masks of --dropoute: one for all streams of the batch, or one for each stream "
                              "(Gal and Ghahramani, Zilly et al.)", choices=("batch", "stream"), kept=MODEL)
    alpha: float = setting(2, "AR: weight of the squared activations", non_negative, "X", kept=MODEL)
    beta: float = setting(1, "TAR: weight of their squared change from step to step", non_negative, "X", kept=MODEL)
    pdr: float = setting(0.0, "past decode regularisation (Brahma's): weight of the loss of predicting the last input "
                         "word from the softmax's probabilities", non_negative, "X", kept=MODEL)
    wdecay: float = setting(1.2e-6, "weight decay", non_negative, "X", kept=MODEL)
    decay_with: str = setting(
        "update", "where weight decay enters: with the update, after clipping (Merity et al.); with the loss, so that "
        "the gradient's norm includes it (Melis et al., Zilly et al.); or apart from learning rate and clipping, a "
        "constant share of the weights (Gal and Ghahramani)", choices=("update", "loss", "apart"), kept=MODEL)
    specific: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "ModelConfig":
        """Out of flags by name, a checkpoint's settings or those of a command line, among others that it leaves out."""
        declared = {flag.name for registry in (CELLS, SOFTMAXES) for flag in options.own_flags(registry)}
        return cls(**{each.name: settings[each.name] for each in fields(cls) if each.name in settings},
                   specific={name: settings[name] for name in declared if name in settings})

    @property
    def supported(self) -> frozenset[str]:
        """Which of `OPTIONAL` and "bf16" its cell and its softmax support."""
        return frozenset(CELLS[self.model].supports & (SOFTMAXES[self.softmax].supports | OPTIONAL))

    @property
    def features(self) -> int:
        """F, the last layer's width."""
        return self.nhidlast or (self.emsize if self.tied and not self.skip_output else self.nhid)


class RNNModel(nn.Module):
    """Embedding, a stack of recurrent layers, and a decoder with its softmax, with the paper's dropouts between them.

    rnn_type: a name in `cells.CELLS`. ntoken: V. ninp: E. nhid: H, width of all layers but the last, which is F wide.
    Probabilities: dropout on the last layer's output, dropouth between layers, dropouti on the embedded input, dropoute
    on whole words, wdrop on the hidden-to-hidden weights (on all of a QRNN's layers).
    tie_weights: the decoder's weight is the encoder's (Press & Wolf 2017; Inan et al. 2017), one tensor.
    settings: other fields of `ModelConfig`, and what cells and softmaxes need to know, by their flags' names; with
    `pdr` it has the parameters of past decode regularisation, too. All of it is in `config`.

    With skip_output the features are the sum of all layers' outputs (Melis et al. 2018), which then have one width.
    Where F is not what the decoder takes, a linear map without bias lies between them, unless the softmax has its own.

    The state dict has `encoder.weight`, `decoder.bias`, `rnns.{l}.weight_ih_l0` and so on (of a QRNN,
    `rnns.{l}.linear.weight` and `rnns.{l}.linear.bias`), whatever wdrop is; `decoder.weight` only where it is not the
    encoder's; `projection.weight` and `softmax.…` where there are such. Raises ValueError for an unknown rnn_type or
    softmax, and for layers of different width with skip_output.
    """

    def __init__(self, rnn_type, ntoken, ninp, nhid, nlayers, dropout=0.5, dropouth=0.5, dropouti=0.5, dropoute=0.1,
                 wdrop=0, tie_weights=True, **settings):
        super().__init__()
        more = {each.name: settings.pop(each.name) for each in fields(ModelConfig) if each.name in settings}
        self.config = config = ModelConfig(
            model=rnn_type, emsize=ninp, nhid=nhid, nlayers=nlayers, dropout=dropout, dropouth=dropouth,
            dropouti=dropouti, dropoute=dropoute, wdrop=wdrop, tied=tie_weights, **more, specific=settings)
        check(config)
        self.nlayers, self.nhidlast = nlayers, config.features
        self.dropout, self.dropouth, self.dropouti, self.dropoute = dropout, dropouth, dropouti, dropoute
        self.dropoutp, self.word_masks_by_column = config.dropoutp, config.word_masks == "stream"
        widths = [ninp] + [nhid] * (nlayers - 1) + [self.nhidlast]
        projects = SOFTMAXES[config.softmax].projects
        decoded = ninp if tie_weights or projects else self.nhidlast              # what the decoder takes

        self.locked_dropout = LockedDropout()
        # As published, a tied last word learns from the softmax alone, not as an input: with the published vocabularies
        # it occurs in the test text only. An untied one would never learn at all.
        self.encoder = WordVectors(ntoken, ninp, padding_idx=ntoken - 1 if tie_weights else None)
        settings = {**settings, "wdrop": wdrop, "dropoutr": config.dropoutr, "untied_masks": config.untied_masks,
                    "nhidlast": self.nhidlast}
        self.rnns = nn.ModuleList(CELLS[rnn_type](*n, layer, {**settings, "dropouti": dropouth if layer else dropouti})
                                  for layer, n in enumerate(zip(widths, widths[1:])))
        self.projection = None
        if decoded != self.nhidlast and not projects:
            self.projection = nn.Linear(self.nhidlast, decoded, bias=False)
            if settings.get("weight_init") == "fan-in":
                nn.init.orthogonal_(self.projection.weight)
        elif config.dropoutp:
            raise InputError("--dropoutp is for the linear map between the last layer and the decoder, and this model "
                             "has none; leave it out")
        self.decoder = nn.Linear(decoded, ntoken)
        nn.init.uniform_(self.encoder.weight, -config.init_range, config.init_range)
        nn.init.uniform_(self.decoder.weight, -config.init_range, config.init_range)
        nn.init.zeros_(self.decoder.bias)
        self.softmax = SOFTMAXES[config.softmax](decoded, settings)
        self.past = PastDecoder(ntoken, ninp, config.pdr) if config.pdr else None
        if tie_weights:
            self.decoder.weight = self.encoder.weight
            self.register_state_dict_post_hook(_leave_out_tied_weight)
            self.register_load_state_dict_pre_hook(_put_back_tied_weight)

    def forward(self, input, hidden, return_h=False):
        """input (T, B) word ids, hidden as from `init_hidden` -> features (N, F), new hidden.

        With `return_h` also each layer's output (T, B, H) before and after dropout, for TAR and AR; with skip
        connections the last of them is the sum.
        """
        x = embedded_dropout(self.encoder, input, self.dropoute if self.training else 0,
                             by_column=self.word_masks_by_column)                # (T, B, E)
        dropouti, dropouth = (0, 0) if self.config.untied_masks else (self.dropouti, self.dropouth)   # else a cell's
        x = self._dropped(x, dropouti)
        raw_outputs, outputs, new_hidden = [], [], []
        for layer, (rnn, h) in enumerate(zip(self.rnns, hidden), start=1):
            raw, h = rnn(x, h)                                                   # (T, B, H)
            if self.config.skip_output and layer == self.nlayers:
                raw = sum(raw_outputs, raw)
            x = self._dropped(raw, dropouth if layer < self.nlayers else self.dropout)
            raw_outputs.append(raw)
            outputs.append(x)
            new_hidden.append(h)
        self.softmax.draw_masks(input.numel() if self.config.per_step_dropout else input.size(1))
        features = x.flatten(0, 1)                                               # (N, F)
        return (features, new_hidden, raw_outputs, outputs) if return_h else (features, new_hidden)

    def init_hidden(self, bsz):
        """Zero state: a list with that of each layer, as its cell describes it; of an LSTM h and c, (1, bsz, H)."""
        return [rnn.zero_state(bsz) for rnn in self.rnns]

    def loss(self, features, targets):
        """Mean cross-entropy in nats of targets (N,), given features (N, F) -> scalar."""
        return self.softmax(self.decoder.weight, self.decoder.bias, self._projected(features), targets)

    def target_logprob(self, features, targets):
        """Log-probability of each target (N,) in nats -> (N,), without a graph."""
        return self.softmax.target_logprob(self.decoder.weight, self.decoder.bias, self._projected(features), targets)

    def logprob(self, features):
        """Log-probabilities of all words in nats -> (N, V)."""
        return self.softmax.logprob(self.decoder.weight, self.decoder.bias, self._projected(features))

    def _dropped(self, x, p):
        if self.config.per_step_dropout:
            return F.dropout(x, p, self.training)
        return self.locked_dropout(x, p)                                                  # (T, B, ·)

    def _projected(self, features):
        if not self.projection:
            return features
        return F.dropout(self.projection(features), self.dropoutp, self.training)         # (N, F) -> (N, E)

    def past_loss(self, features, input):
        """Past decode regularisation's part of the loss, given features (N, F) of the input (T, B) -> scalar."""
        if self.past is None:
            return 0.0
        of_projection = self.projection.parameters() if self.projection else ()
        parameters = [*of_projection, *self.softmax.parameters(), *self.decoder.parameters(), self.encoder.weight]
        return self.past(self.logprob, parameters, self.encoder.weight, features, input)

    @contextmanager
    def dropout_scaled(self, factor, words=True):
        """Inside the block every dropout rate is `factor` (from 0 to 1) times what it is. words: whether words are
        dropped."""
        rates = [(vars(module), name) for module in (self, *self.rnns) for name in DROPOUTS if name in vars(module)]
        rates += [(self.softmax.settings, "dropoutl")] if "dropoutl" in self.softmax.settings else []
        before = [owner[name] for owner, name in rates]
        for (owner, name), rate in zip(rates, before):
            owner[name] = 0.0 if name == "dropoute" and not words else factor * rate
        try:
            yield
        finally:
            for (owner, name), rate in zip(rates, before):
                owner[name] = rate

    @property
    def can_be_graphed(self):
        """Whether a training step can be recorded as a CUDA graph."""
        return all(module.can_be_graphed for module in (*self.rnns, self.softmax))


class WordVectors(nn.Embedding):
    """An embedding whose gradient on a GPU is taken without the host: that of torch's cannot be recorded as a graph.
    On a CPU it need not be formed in dynamic evaluation."""

    def reset_parameters(self):
        if not self.weight.is_meta:      # there torch's normal distribution imports 800 modules
            super().reset_parameters()

    def forward(self, words):
        if few.is_unformed(self.weight):
            return few.lookup(self.weight, words, self.padding_idx)
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


# ---- from the command line to a model

def model_flags():
    """The flags that describe a model, those of all registered cells and softmaxes among them."""
    return (*flags_of(ModelConfig), *options.own_flags(CELLS), *options.own_flags(SOFTMAXES))


def check(config):
    """Raise ValueError for an unknown cell or softmax, InputError for options that a cell does not honour and for
    widths that do not fit."""
    for name, known in (config.model, CELLS), (config.softmax, SOFTMAXES):
        if name not in known:
            raise ValueError(f"{name!r} is none of {', '.join(known)}")
    for name in ("dropoutr", "untied_masks"):
        if getattr(config, name) and name not in config.supported:
            raise InputError(f"--{name.replace('_', '-')} is not supported by --model {config.model}")
    if config.untied_masks and config.per_step_dropout:
        raise InputError("--untied-masks has masks for a window, --per-step-dropout for every step; leave one out")
    if config.skip_output and config.features != config.nhid and config.nlayers > 1:
        raise InputError("--skip-output sums the outputs of layers of one width; leave --nhidlast out")


def resolve(args, ntoken):
    """The flags with all that a model of `ntoken` words decides itself, where nothing was typed -> Arguments."""
    unsupported = OPTIONAL - ModelConfig.of(vars(args)).supported
    none = {name: type(vars(args)[name])() for name in unsupported}                   # 0.0, or False
    return args.replaced(**none, **SOFTMAXES[args.softmax].resolve(vars(args), ntoken))


def build(settings, ntoken):
    """The network as the flags in `settings` (a dict, or a ModelConfig) describe it -> RNNModel."""
    config = settings if isinstance(settings, ModelConfig) else ModelConfig.of(settings)
    others = {each.name: getattr(config, each.name) for each in fields(config)}
    cell, width, tied, specific = (others.pop(name) for name in ("model", "emsize", "tied", "specific"))
    return RNNModel(cell, ntoken, width, tie_weights=tied, **others, **specific)


def set_precision(model, precision):
    """Let a model, on its device, multiply matrices in bfloat16 if `precision` is "bf16"; else in fp32. -> model."""
    for module in (*model.rnns, model.softmax, *([model.past] if model.past else [])):
        module.matmul_dtype = torch.bfloat16 if precision == "bf16" else None
    model.softmax.on_device(model.encoder.weight.device)
    return model


def count_parameters(model):
    """Number of trained scalars, a tied weight once."""
    return sum(p.numel() for p in model.parameters())


def is_finite(model):
    """Whether every parameter is a finite number."""
    return all(bool(torch.isfinite(p).all()) for p in model.parameters())
