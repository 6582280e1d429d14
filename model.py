"""The network (Merity et al. 2018, sections 2 and 4).

T window length, B batch size, V vocabulary, E emsize, H nhid, F nhidlast, N = T·B.
"""
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from cells import CELLS
from embed_regularize import embedded_dropout
from locked_dropout import LockedDropout
from past_decode import PastDecoder
from runtime import options
from runtime.errors import InputError
from runtime.options import ARCHITECTURE, MODEL, Flag
from runtime.values import non_negative, positive, probability, width
from softmaxes import SOFTMAXES

DROPOUTS = ("dropout", "dropouth", "dropouti", "dropoute", "wdrop", "dropoutr", "dropoutp")   # of model and cells
OPTIONAL = {"wdrop", "dropoutr", "untied_masks"}     # of dropouts inside a cell, which not every cell supports


class RNNModel(nn.Module):
    """Embedding, a stack of recurrent layers, and a decoder with its softmax, with the paper's dropouts between them.

    rnn_type: a name in `cells.CELLS`. ntoken: V. ninp: E. nhid: H, width of all layers but the last, which is F wide.
    nhidlast: F, if not given E when the weights are tied, else H. skip_output: the features are the sum of all layers'
    outputs (Melis et al. 2018), which then have one width. Where F is not what the decoder takes, a linear map without
    bias lies between them, unless the softmax has its own.
    Probabilities: dropout on the last layer's output, dropouth between layers, dropouti on the embedded input, dropoute
    on whole words, wdrop on the hidden-to-hidden weights (on all of a QRNN's layers), dropoutr on the state that these
    are multiplied by (Gal & Ghahramani 2016; not of a QRNN).
    tie_weights: the decoder's weight is the encoder's (Press & Wolf 2017; Inan et al. 2017), one tensor.
    per_step_dropout: dropout, dropouth and dropouti draw a mask for every step, not one for the window. untied_masks:
    the gates of a layer have masks of their own on its input (dropouti and dropouth) and its state (dropoutr).
    word_masks: "batch", one mask on words for all columns, or "stream", for each column its own. dropoutp: on what the
    linear map gives the decoder, a mask for every step. init_range: embedding and decoder start from uniform numbers up
    to this one.
    softmax: a name in `softmaxes.SOFTMAXES`. settings: what cells and softmaxes need to know besides, by their flags'
    names, such as `cutoffs`; with `pdr`, the weight of past decode regularisation, it has the parameters of that, too.

    The state dict has `encoder.weight`, `decoder.bias`, `rnns.{l}.weight_ih_l0` and so on (of a QRNN,
    `rnns.{l}.linear.weight` and `rnns.{l}.linear.bias`), whatever wdrop is; `decoder.weight` only where it is not the
    encoder's; `projection.weight` and `softmax.…` where there are such. Raises ValueError for an unknown rnn_type or
    softmax, and for layers of different width with skip_output.
    """

    def __init__(self, rnn_type, ntoken, ninp, nhid, nlayers, dropout=0.5, dropouth=0.5, dropouti=0.5, dropoute=0.1,
                 wdrop=0, tie_weights=True, dropoutr=0, softmax="split", nhidlast=None, skip_output=False,
                 per_step_dropout=False, dropoutp=0, init_range=0.1, untied_masks=False, word_masks="batch",
                 **settings):
        super().__init__()
        for name, known in (rnn_type, CELLS), (softmax, SOFTMAXES):
            if name not in known:
                raise ValueError(f"{name!r} is none of {', '.join(known)}")
        if untied_masks and "untied_masks" not in CELLS[rnn_type].supports:
            raise InputError(f"--untied-masks is not supported by --model {rnn_type}")
        if untied_masks and per_step_dropout:
            raise InputError("--untied-masks has masks for a window, --per-step-dropout for every step; leave one out")
        nhidlast = nhidlast or (ninp if tie_weights and not skip_output else nhid)
        if skip_output and nhidlast != nhid and nlayers > 1:
            raise ValueError(f"outputs of width {nhid} and {nhidlast} cannot be summed")
        widths = [ninp] + [nhid] * (nlayers - 1) + [nhidlast]
        projects = SOFTMAXES[softmax].projects
        decoded = ninp if tie_weights or projects else nhidlast                   # what the decoder takes
        self.rnn_type, self.ninp, self.nhid, self.nlayers, self.nhidlast = rnn_type, ninp, nhid, nlayers, nhidlast
        self.skip_output = skip_output
        self.dropout, self.dropouth, self.dropouti, self.dropoute = dropout, dropouth, dropouti, dropoute
        self.per_step_dropout, self.dropoutp, self.tie_weights = per_step_dropout, dropoutp, tie_weights
        self.untied_masks, self.word_masks_by_column = untied_masks, word_masks == "stream"

        self.locked_dropout = LockedDropout()
        # As published, a tied last word learns from the softmax alone, not as an input: with the published vocabularies
        # it occurs in the test text only. An untied one would never learn at all.
        self.encoder = WordVectors(ntoken, ninp, padding_idx=ntoken - 1 if tie_weights else None)
        settings = {**settings, "wdrop": wdrop, "dropoutr": dropoutr, "untied_masks": untied_masks,
                    "nhidlast": nhidlast}
        self.rnns = nn.ModuleList(CELLS[rnn_type](*n, layer, {**settings, "dropouti": dropouth if layer else dropouti})
                                  for layer, n in enumerate(zip(widths, widths[1:])))
        self.projection = nn.Linear(nhidlast, decoded, bias=False) if decoded != nhidlast and not projects else None
        if dropoutp and not self.projection:
            raise InputError("--dropoutp is for the linear map between the last layer and the decoder, and this model "
                             "has none; leave it out")
        if self.projection and settings.get("weight_init") == "fan-in":
            nn.init.orthogonal_(self.projection.weight)
        self.decoder = nn.Linear(decoded, ntoken)
        nn.init.uniform_(self.encoder.weight, -init_range, init_range)
        nn.init.uniform_(self.decoder.weight, -init_range, init_range)
        nn.init.zeros_(self.decoder.bias)
        self.softmax = SOFTMAXES[softmax](decoded, settings)
        self.past = PastDecoder(ntoken, ninp, settings["pdr"]) if settings.get("pdr") else None
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
        dropouti, dropouth = (0, 0) if self.untied_masks else (self.dropouti, self.dropouth)   # else a cell's
        x = self._dropped(x, dropouti)
        raw_outputs, outputs, new_hidden = [], [], []
        for layer, (rnn, h) in enumerate(zip(self.rnns, hidden), start=1):
            raw, h = rnn(x, h)                                                   # (T, B, H)
            if self.skip_output and layer == self.nlayers:
                raw = sum(raw_outputs, raw)
            x = self._dropped(raw, dropouth if layer < self.nlayers else self.dropout)
            raw_outputs.append(raw)
            outputs.append(x)
            new_hidden.append(h)
        self.softmax.draw_masks(input.size(1))
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
        return F.dropout(x, p, self.training) if self.per_step_dropout else self.locked_dropout(x, p)   # (T, B, ·)

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


# ---- from the command line to a model

REGULARISATION = (
    *(Flag(name, default, f"dropout on {what}", probability, "P", kept=MODEL) for name, default, what in [
        ("dropout", 0.4, "the last layer's output"),
        ("dropouth", 0.3, "the output of the layers below"),
        ("dropouti", 0.65, "the embedded input"),
        ("dropoute", 0.1, "whole words of the input"),
        ("wdrop", 0.5, "the hidden-to-hidden weights; of a QRNN, on all its layers' weights"),
        ("dropoutr", 0.0, "the state that the hidden-to-hidden weights are multiplied by, one mask for a window (Gal "
                          "and Ghahramani's)")]),
    Flag("dropoutp", 0.0, "dropout on the output of the linear map between the last layer and the decoder, where their "
         "widths differ; a mask for every step (Melis et al.)", probability, "P", kept=MODEL),
    Flag("per_step_dropout", False, "masks of --dropout, --dropouth and --dropouti drawn anew at every step, not one "
         "for a window", bool, only_true=True, kept=MODEL),
    Flag("untied_masks", False, "masks of its own for each gate, on a layer's input (--dropouti, --dropouth) and "
         "on its state (--dropoutr): Gal and Ghahramani's untied weights", bool, only_true=True, kept=MODEL),
    Flag("word_masks", "batch", "masks of --dropoute: one for all streams of the batch, or one for each stream (Gal "
         "and Ghahramani, Zilly et al.)", choices=("batch", "stream"), kept=MODEL),
    Flag("alpha", 2, "AR: weight of the squared activations", non_negative, "X", kept=MODEL),
    Flag("beta", 1, "TAR: weight of their squared change from step to step", non_negative, "X", kept=MODEL),
    Flag("pdr", 0.0, "past decode regularisation (Brahma's): weight of the loss of predicting the last input word from "
         "the softmax's probabilities", non_negative, "X", kept=MODEL),
    Flag("wdecay", 1.2e-6, "weight decay", non_negative, "X", kept=MODEL),
    Flag("decay_with", "update", "where weight decay enters: with the update, after clipping (Merity et al.); with the "
         "loss, so that the gradient's norm includes it (Melis et al., Zilly et al.); or apart from learning rate and "
         "clipping, a constant share of the weights (Gal and Ghahramani)", choices=("update", "loss", "apart"),
         kept=MODEL),
)


def architecture():
    """The shape of a model; what its cell and its softmax need to know has flags, too."""
    return (
        Flag("model", "LSTM", "recurrent cell", choices=tuple(CELLS), kept=ARCHITECTURE),
        Flag("emsize", 400, "width of word vectors", width, "N", kept=ARCHITECTURE),
        Flag("nhid", 1150, "hidden units per layer", width, "N", kept=ARCHITECTURE),
        Flag("nhidlast", None, "hidden units of the last layer; if not given --emsize, or --nhid with --no-tied or "
             "--skip-output. Where the decoder takes another width, a linear map lies between", width, "N",
             kept=ARCHITECTURE),
        Flag("nlayers", 3, "recurrent layers", width, "N", kept=ARCHITECTURE),
        Flag("tied", True, "one matrix for encoder and decoder", bool, kept=ARCHITECTURE),
        Flag("skip_output", False, "prediction from the sum of all layers' outputs", bool, only_true=True,
             kept=ARCHITECTURE),
        Flag("softmax", "split", "split (full, or adaptive with --cutoffs) or mixture (of several full ones)",
             choices=tuple(SOFTMAXES), kept=ARCHITECTURE),
        Flag("init_range", 0.1, "embedding's and decoder's initial weights: uniform from -X to X", positive, "X",
             kept=ARCHITECTURE),
        *options.own_flags(CELLS), *options.own_flags(SOFTMAXES),
    )


def model_flags():
    """The flags that describe a model, those of all registered cells and softmaxes among them."""
    return architecture() + REGULARISATION


def supports(settings):
    """Which of `OPTIONAL` and "bf16" the cell and the softmax in `settings` (a dict) support."""
    cell, softmax = CELLS[settings["model"]].supports, SOFTMAXES[settings.get("softmax", "split")].supports
    return frozenset(cell & (softmax | OPTIONAL))


def refuse_unsupported(args):
    """InputError for a flag that was typed, and that the cell or the softmax in `args` does not honour."""
    supported = supports(vars(args))
    owners = {}
    for name, entry in (*CELLS.items(), *SOFTMAXES.items()):
        for flag in entry.flags:
            owners.setdefault(flag.name, []).append(name)
    for name in sorted(args.given):
        if name in OPTIONAL - supported and getattr(args, name):
            others = ", ".join(other for other, cell in CELLS.items() if name in cell.supports)
            raise InputError(f"--{name.replace('_', '-')} is not supported by --model {args.model}; leave it out, or "
                             f"use one of {others}")
        if name in owners and not {args.model, args.softmax} & {*owners[name]}:
            raise InputError(f"--{name.replace('_', '-')} is for {', '.join(owners[name])}, not for --model "
                             f"{args.model} --softmax {args.softmax}; leave it out")


def resolve(args, ntoken):
    """The flags with all that a model of `ntoken` words decides itself, where nothing was typed -> Arguments."""
    unsupported = OPTIONAL - supports(vars(args))
    none = {name: type(vars(args)[name])() for name in unsupported}                   # 0.0, or False
    return args.replaced(**none, **SOFTMAXES[args.softmax].resolve(vars(args), ntoken))


def build(settings, ntoken):
    """The network as the flags in `settings` (a dict) describe it -> RNNModel."""
    supported = supports(settings)
    if settings["dropoutr"] and "dropoutr" not in supported:
        raise InputError(f"--dropoutr is not supported by --model {settings['model']}")
    if settings.get("skip_output") and settings.get("nhidlast") not in (None, settings["nhid"]):
        raise InputError("--skip-output sums the outputs of layers of one width; leave --nhidlast out")
    names = ("nhid", "nlayers", "dropout", "dropouth", "dropouti", "dropoute", "wdrop", "dropoutr", "softmax",
             "nhidlast", "skip_output", "per_step_dropout", "untied_masks", "word_masks", "dropoutp", "init_range",
             "pdr", *(flag.name for registry in (CELLS, SOFTMAXES) for flag in options.own_flags(registry)))
    return RNNModel(settings["model"], ntoken, settings["emsize"], tie_weights=settings["tied"],
                    **{name: settings[name] for name in names if name in settings})


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
