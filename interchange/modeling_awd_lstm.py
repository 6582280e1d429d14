"""An AWD-LSTM language model (Merity et al. 2018) for Hugging Face transformers. Needs torch and transformers alone.

Dropout is not here: what trains further with this file trains without it.
T steps, B batch size, E emsize, I width of a layer's input, H of its output, F of the last layer's, V words.
"""
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils import _pytree as pytree
from transformers import PretrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from transformers.utils import can_return_tuple

# The name of what generation goes on from, since transformers 5.24 and before.
STATE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class AWDLSTMConfig(PretrainedConfig):
    """The shape of a model.

    cell: LSTM, GRU, QRNN, RHN or Mogrifier. emsize: E. nhid: H of all layers but the last, whose H is nhidlast.
    skip_output: words are predicted from the sum of all layers' outputs. cutoffs: those of the adaptive softmax, none
    for the full one. mixtures: softmaxes that are mixed, 0 for a single one. gate: plain, capped or coupled, of an LSTM
    or a Mogrifier. rhn_depth, mogrifier_rounds, mogrifier_rank: of those cells. vocab_size: V, the last for padding.
    tie_word_embeddings: decoder and encoder share one matrix. settings, words_seen: of the training, for its own tools.
    """
    model_type = "awd_lstm"
    attribute_map = {"hidden_size": "nhidlast", "num_hidden_layers": "nlayers"}  # noqa: RUF012
    keys_to_ignore_at_inference = ["cache", "past_key_values"]  # noqa: RUF012

    def __init__(self, cell="LSTM", vocab_size=10000, emsize=400, nhid=1150, nhidlast=400, nlayers=3,
                 skip_output=False, cutoffs=(), mixtures=0, gate="plain", rhn_depth=10, mogrifier_rounds=5,
                 mogrifier_rank=0, settings=None, words_seen=None, use_cache=True, **kwargs):
        self.cell, self.vocab_size = cell, vocab_size
        self.emsize, self.nhid, self.nhidlast, self.nlayers = emsize, nhid, nhidlast, nlayers
        self.skip_output, self.cutoffs, self.mixtures = skip_output, list(cutoffs or ()), mixtures
        self.gate, self.rhn_depth = gate, rhn_depth
        self.mogrifier_rounds, self.mogrifier_rank = mogrifier_rounds, mogrifier_rank
        self.settings, self.words_seen, self.use_cache = settings or {}, words_seen, use_cache
        super().__init__(**kwargs)


# ---- layers: each goes through x (B, T, I) from a state, a tuple of (1, B, ·), to its output (B, T, H) and a state.
# lengths (B,): how many steps of each row are read; the others, behind them, change no state. None: all of them.

class Layer:
    """What all layers have in common. parts: of which their states consist, each as wide as the output."""
    parts = 1

    def zero_state(self, x):
        return (x.new_zeros(1, x.size(0), self.hidden_size),) * self.parts


class OfTorch(Layer):
    """What torch's own layers have in common."""

    def run(self, x, before, lengths=None):
        if lengths is not None:
            x = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        y, after = self(x, before if self.parts > 1 else before[0])
        after = after if self.parts > 1 else (after,)
        if lengths is None:
            return y, after
        y, _ = pad_packed_sequence(y, batch_first=True)
        return y, tuple(torch.where((lengths > 0)[:, None], new, old) for new, old in zip(after, before))


class LSTM(OfTorch, nn.LSTM):
    parts = 2


class GRU(OfTorch, nn.GRU):
    pass


class Stepwise(Layer, nn.Module):
    """A layer that is computed step by step. `step`: x (1, B, I), state -> output (1, B, H), state."""

    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size

    def parameter(self, *shape):
        return nn.Parameter(torch.empty(shape).uniform_(-self.hidden_size**-0.5, self.hidden_size**-0.5))

    def run(self, x, before, lengths=None):
        outputs = []
        for t, x_t in enumerate(x.transpose(0, 1).split(1)):                     # (1, B, I)
            y, after = self.step(x_t, before)
            if lengths is not None:
                after = tuple(torch.where((lengths > t)[:, None], new, old) for new, old in zip(after, before))
            outputs.append(y)
            before = after
        return torch.cat(outputs).transpose(0, 1), before


class GatedLSTM(Stepwise):
    """An LSTM whose input gate is at most 1 - f ("capped") or equal to that ("coupled"; Melis et al. 2018)."""
    parts = 2

    def __init__(self, input_size, hidden_size, gate):
        super().__init__(input_size, hidden_size)
        self.gate, self.gates = gate, 3 if gate == "coupled" else 4
        self.weight_ih_l0 = self.parameter(self.gates * hidden_size, input_size)
        self.weight_hh_l0 = self.parameter(self.gates * hidden_size, hidden_size)
        self.bias_ih_l0 = self.parameter(self.gates * hidden_size)

    def step(self, x, state):
        h, c = state
        *i, f, g, o = (F.linear(x, self.weight_ih_l0, self.bias_ih_l0) + F.linear(h, self.weight_hh_l0)).chunk(
            self.gates, -1)                                                      # (1, B, H) each
        f = f.sigmoid()
        i = i[0].sigmoid() if i else 1 - f
        c = f * c + (torch.minimum(i, 1 - f) if self.gate == "capped" else i) * g.tanh()
        h = o.sigmoid() * c.tanh()
        return h, (h, c)


class Mogrifier(GatedLSTM):
    """An LSTM before each step of which input and state scale each other (Melis et al. 2020)."""

    def __init__(self, input_size, hidden_size, gate, rounds, rank):
        super().__init__(input_size, hidden_size, gate)
        self.rounds = nn.ModuleList()
        for turn in range(rounds):
            to, of = (hidden_size, input_size) if turn % 2 else (input_size, hidden_size)
            factors = [nn.Linear(of, rank, bias=False)] if rank else []
            self.rounds.append(nn.Sequential(*factors, nn.Linear(rank or of, to)))

    def step(self, x, state):
        h, c = state
        for turn, gate in enumerate(self.rounds):
            if turn % 2:
                h = 2 * gate(x).sigmoid() * h
            else:
                x = 2 * gate(h).sigmoid() * x
        return super().step(x, (h, c))


class RHN(Stepwise):
    """A recurrent highway network: `depth` highway layers in each step (Zilly et al. 2017)."""

    def __init__(self, input_size, hidden_size, depth):
        super().__init__(input_size, hidden_size)
        self.weight_ih = self.parameter(2 * hidden_size, input_size)
        self.weight_hh = nn.ParameterList(self.parameter(2 * hidden_size, hidden_size) for _ in range(depth))
        self.bias = nn.ParameterList(self.parameter(2 * hidden_size) for _ in range(depth))

    def step(self, x, state):
        s, from_input = state[0], F.linear(x, self.weight_ih)                    # (1, B, H), (1, B, 2H)
        for weight, bias in zip(self.weight_hh, self.bias):
            h, t = (F.linear(s, weight, bias) + from_input).chunk(2, -1)
            s, from_input = s + (h.tanh() - s) * t.sigmoid(), 0
        return s, (s,)


class QRNN(Stepwise):
    """A quasi-recurrent layer (Bradbury et al. 2017). width 2: it sees the input before the present one, too."""

    def __init__(self, input_size, hidden_size, width):
        super().__init__(input_size, hidden_size)
        self.linear, self.parts = nn.Linear(width * input_size, 3 * hidden_size), width

    def zero_state(self, x):
        c = x.new_zeros(1, x.size(0), self.hidden_size)
        return (c, x.new_zeros(1, x.size(0), self.input_size)) if self.parts == 2 else (c,)

    def step(self, x, state):
        c, before = state[0], state[1:]
        z, f, o = self.linear(torch.cat([x, *before], -1)).chunk(3, -1)          # (1, B, H) each
        f = f.sigmoid()
        c = f * c + (1 - f) * z.tanh()
        return o.sigmoid() * c, (c, x) if before else (c,)


def make_layer(config, layer, input_size, hidden_size):
    if config.cell == "RHN":
        return RHN(input_size, hidden_size, config.rhn_depth)
    if config.cell == "QRNN":
        return QRNN(input_size, hidden_size, width=1 if layer else 2)
    if config.cell == "Mogrifier":
        return Mogrifier(input_size, hidden_size, config.gate, config.mogrifier_rounds, config.mogrifier_rank)
    if config.cell == "LSTM" and config.gate != "plain":
        return GatedLSTM(input_size, hidden_size, config.gate)
    return {"LSTM": LSTM, "GRU": GRU}[config.cell](input_size, hidden_size, batch_first=True)


# ---- softmaxes

class AdaptiveSoftmax(nn.Module):
    """Log-probabilities of words in a head and tails (Grave et al. 2017), with the weights of a decoder.

    width: that of the decoder. cutoffs: where the vocabulary is cut, K of them.
    """

    def __init__(self, width, cutoffs):
        super().__init__()
        self.cutoffs = cutoffs
        self.tail_vectors = nn.Parameter(torch.zeros(len(cutoffs), width))       # (K, E)
        self.tail_bias = nn.Parameter(torch.zeros(len(cutoffs)))

    def forward(self, decoder, features):
        """features (…, E) -> (…, V); every row's exponentials sum to one."""
        weight, bias = decoder.weight, decoder.bias
        edges = [cut for cut in self.cutoffs if cut < len(weight) - 1] + [len(weight)]    # the last is padding
        tails = len(edges) - 1
        head = F.log_softmax(F.linear(features, torch.cat([weight[:edges[0]], self.tail_vectors[:tails]]),
                                      torch.cat([bias[:edges[0]], self.tail_bias[:tails]])), -1)
        parts = [head[..., :edges[0]]]
        for k, (low, high) in enumerate(zip(edges, edges[1:])):
            tail = F.log_softmax(F.linear(features, weight[low:high], bias[low:high]), -1)
            parts.append(head[..., -1 - k, None] + tail)                         # the tails' entries in falling order
        return torch.cat(parts, -1)


class MixtureSoftmax(nn.Module):
    """Log-probabilities of words as a mixture of K softmaxes over one decoder (Yang et al. 2018)."""

    def __init__(self, n_in, width, components):
        super().__init__()
        self.latent = nn.Linear(n_in, components * width)
        self.prior = nn.Linear(n_in, components, bias=False)

    def forward(self, decoder, features):
        """features (…, F) -> (…, V), one component after another: that of all is the largest array by far."""
        latents = self.latent(features).tanh().chunk(self.prior.out_features, -1)             # (…, E) each
        log_priors = self.prior(features).log_softmax(-1)                                     # (…, K)
        total = None
        for latent, log_prior in zip(latents, log_priors.split(1, -1)):
            part = decoder(latent).log_softmax(-1) + log_prior
            total = part if total is None else torch.logaddexp(total, part)
        return total


# ---- what was read, and padding

class RecurrentState:
    """What stands for a text that was read, in the place of a cache: of each layer a tuple of (1, B, ·).

    length: how many steps were read, padding among them.
    """
    is_compileable = is_croppable = False

    def __init__(self, layers, length=0):
        self.layers, self.length = layers, length

    def get_seq_length(self, layer_idx=0):
        return int(self.length)

    def reorder_cache(self, rows):
        self.layers = [tuple(part.index_select(1, rows.to(part.device)) for part in layer) for layer in self.layers]


# For torch.export the state is what its tensors are. Its length is one of them: a program is not made for one length.
pytree.register_pytree_node(
    RecurrentState, lambda state: ([state.layers, torch.as_tensor(state.length)], None),
    lambda parts, _: RecurrentState(*parts), serialized_type_name=f"{__name__}.RecurrentState",
    flatten_with_keys_fn=lambda state: ([(pytree.GetAttrKey("layers"), state.layers),
                                         (pytree.GetAttrKey("length"), torch.as_tensor(state.length))], None))


def real_steps(attention_mask, steps):
    """attention_mask as in `AWDLSTMModel.forward` -> which of the last `steps` are no padding, (B, T) of bool."""
    if attention_mask.is_floating_point() and bool((attention_mask < 0).any()):
        raise ValueError("attention_mask is 1 at what is read and 0 at padding; masks that are added to attention "
                         "scores, with negative numbers, are not read")
    mask = attention_mask.bool()
    while mask.dim() > 2:                                                        # (B, heads, T, S), (B, T, S): for
        mask = mask.any(1)                                                       # every step those it attends to
    if mask.dim() != 2 or mask.size(1) < steps:
        raise ValueError(f"attention_mask has the shape {tuple(attention_mask.shape)}; for {steps} steps it is (B, S), "
                         "(B, T, S) or (B, 1, T, S), with what was read before among the S")
    return mask[:, mask.size(1) - steps:]


class Padding:
    """Steps that no layer sees: its state is not changed by them, and its output there is that before them.

    mask (B, T): false at padding, wherever that is.
    """

    def __init__(self, mask):
        self.order = mask.long().argsort(dim=1, descending=True, stable=True)   # (B, T), the real steps first
        self.lengths, self.seen = mask.sum(1), mask.cumsum(1)                   # (B,), (B, T)

    def compact(self, x):
        """x (B, T, ·) with the real steps of every row at its beginning."""
        return x.gather(1, self.order[..., None].expand_as(x))

    def spread(self, y, before):
        """Compact y (B, ≤ T, H) with every step at its place again; at padding the output, or the state, before it."""
        y = torch.cat([before[0].transpose(0, 1).to(y.dtype), y], 1)            # (B, ≤ 1 + T, H)
        return y.gather(1, self.seen[..., None].expand(-1, -1, y.size(2)))      # (B, T, H)


# ---- models

class AWDLSTMPreTrainedModel(PreTrainedModel):
    """What the models below have in common: the network without a head is their `model`."""
    config_class = AWDLSTMConfig
    base_model_prefix = "model"
    _is_stateful = True

    def get_input_embeddings(self):
        return self.base_model.encoder

    def set_input_embeddings(self, value):
        self.base_model.encoder = value

    def loss_of(self, logits, labels, **kwargs):
        return None if labels is None else self.loss_function(logits=logits, labels=labels, **kwargs)


class AWDLSTMModel(AWDLSTMPreTrainedModel):
    """Embedding and recurrent layers."""
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^projection\.", r"^softmax\."]  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        widths = [config.emsize] + [config.nhid] * (config.nlayers - 1) + [config.nhidlast]
        self.encoder = nn.Embedding(config.vocab_size, config.emsize)
        self.rnns = nn.ModuleList(make_layer(config, layer, n_in, n_out)
                                  for layer, (n_in, n_out) in enumerate(zip(widths, widths[1:])))
        self.post_init()

    @can_return_tuple
    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, inputs_embeds=None, use_cache=None,
                output_hidden_states=None, cache=None, **kwargs):
        """input_ids (B, T) -> last_hidden_state (B, T, F), from which words are predicted.

        attention_mask (B, T), or (B, steps read before + T): 0 at padding, left or right; or such masks for every step
        (B, T, ·), of which those count that no step attends to. past_key_values, or cache: a RecurrentState to go on
        from. hidden_states: the embedded input, then each layer's output (B, T, H); the last is last_hidden_state.
        """
        if inputs_embeds is None:                                                # a tokenizer's ids of "" are floats
            inputs_embeds = self.encoder(input_ids if input_ids.numel() else input_ids.long())
        x, steps = inputs_embeds, inputs_embeds.size(1)                          # (B, T, E)
        past = past_key_values or cache or RecurrentState([rnn.zero_state(x) for rnn in self.rnns])
        mask = None if attention_mask is None else real_steps(attention_mask, steps)
        padding = None if mask is None or bool(mask.all()) else Padding(mask)
        outputs, layers = [x], []
        x = padding.compact(x) if padding else x
        for rnn, before in zip(self.rnns, past.layers):
            if steps:
                x, after = rnn.run(x, before, padding and padding.lengths)
            else:
                x, after = x.new_zeros(x.size(0), 0, rnn.hidden_size), before
            outputs.append(padding.spread(x, before) if padding else x)          # (B, T, H)
            layers.append(after)
        if self.config.skip_output:
            outputs[-1] = sum(outputs[1:])

        if output_hidden_states is None:
            output_hidden_states = getattr(self.config, "output_hidden_states", False)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        return BaseModelOutputWithPast(
            last_hidden_state=outputs[-1], hidden_states=tuple(outputs) if output_hidden_states else None,
            **{STATE: RecurrentState(layers, past.length + steps) if use_cache else None})


class AWDLSTMForCausalLM(AWDLSTMPreTrainedModel, GenerationMixin):
    """A decoder over the network. With cutoffs or mixtures the logits are log-probabilities."""
    _tied_weights_keys = {"decoder.weight": "model.encoder.weight"}  # noqa: RUF012

    def __init__(self, config):
        super().__init__(config)
        narrow = config.tie_word_embeddings or config.mixtures
        width = config.emsize if narrow else config.nhidlast                     # of the decoder
        self.model = AWDLSTMModel(config)
        projects = width != config.nhidlast and not config.mixtures
        self.projection = nn.Linear(config.nhidlast, width, bias=False) if projects else None
        self.decoder = nn.Linear(width, config.vocab_size)
        self.softmax = None
        if config.mixtures:
            self.softmax = MixtureSoftmax(config.nhidlast, width, config.mixtures)
        elif config.cutoffs:
            self.softmax = AdaptiveSoftmax(width, config.cutoffs)
        self.post_init()

    def get_output_embeddings(self):
        return self.decoder

    def set_output_embeddings(self, value):
        self.decoder = value

    @can_return_tuple
    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, inputs_embeds=None, labels=None,
                use_cache=None, output_hidden_states=None, logits_to_keep=0, cache=None, **kwargs):
        """input_ids (B, T) -> logits (B, T, V); loss, the mean over labels (B, T) shifted by one, but for -100.

        logits_to_keep: of the last steps only, 0 for all. The others as those of `AWDLSTMModel`.
        """
        read = self.model(input_ids, attention_mask, past_key_values or cache, inputs_embeds, use_cache,
                          output_hidden_states, return_dict=True)
        last_steps = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        features = read.last_hidden_state[:, last_steps]
        features = self.projection(features) if self.projection else features
        logits = self.softmax(self.decoder, features) if self.softmax else self.decoder(features)     # (B, T, V)
        loss = self.loss_of(logits, labels, vocab_size=logits.size(-1), **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, hidden_states=read.hidden_states,
                                      **{STATE: read.get(STATE)})

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, attention_mask=None, inputs_embeds=None,
                                      use_cache=None, logits_to_keep=0, cache=None, **kwargs):
        """Of the ids those that have not been read yet."""
        past = past_key_values or cache
        embeds = inputs_embeds if past is None else None                         # of a prompt, for the first step alone
        if past is not None:
            steps = (input_ids if attention_mask is None else attention_mask).size(1)
            input_ids = input_ids[:, past.get_seq_length() - steps:]
        if embeds is None and not input_ids.size(1):
            raise ValueError("there is nothing to go on from; give at least one token, such as <eos>")
        return {"input_ids": input_ids if embeds is None else None, "inputs_embeds": embeds,
                "attention_mask": attention_mask, STATE: past, "use_cache": use_cache, "logits_to_keep": logits_to_keep}

    @classmethod
    def _supports_default_dynamic_cache(cls):
        return False                                                             # its state is none of keys and values


class Classifier(AWDLSTMPreTrainedModel):
    """A linear map of the features."""

    def __init__(self, config):
        super().__init__(config)
        self.num_labels, self.model = config.num_labels, AWDLSTMModel(config)
        self.score = nn.Linear(config.nhidlast, config.num_labels)
        self.post_init()


class AWDLSTMForSequenceClassification(Classifier):
    """Of those at the last step of each row that is no padding."""

    @can_return_tuple
    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, inputs_embeds=None, labels=None,
                use_cache=None, output_hidden_states=None, cache=None, **kwargs):
        """input_ids (B, T) -> logits (B, labels). Without an attention_mask tokens of padding are not read."""
        if attention_mask is None and input_ids is not None and self.config.pad_token_id is not None:
            attention_mask = input_ids != self.config.pad_token_id
        read = self.model(input_ids, attention_mask, past_key_values or cache, inputs_embeds, use_cache,
                          output_hidden_states, return_dict=True)
        features = read.last_hidden_state                                        # (B, T, F)
        steps = torch.arange(features.size(1), device=features.device)
        mask = torch.ones_like(steps)[None] if attention_mask is None else real_steps(attention_mask, len(steps))
        last = (steps * mask).argmax(1).expand(len(features))                    # (B,)
        logits = self.score(features[torch.arange(len(features), device=features.device), last])
        loss = self.loss_of(logits, labels, pooled_logits=logits, config=self.config, **kwargs)
        return SequenceClassifierOutputWithPast(loss=loss, logits=logits, hidden_states=read.hidden_states,
                                                **{STATE: read.get(STATE)})


class AWDLSTMForTokenClassification(Classifier):
    """Of those at every step."""

    @can_return_tuple
    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None, labels=None, output_hidden_states=None,
                **kwargs):
        """input_ids (B, T) -> logits (B, T, labels); loss, the mean over labels (B, T), but for -100."""
        read = self.model(input_ids, attention_mask, None, inputs_embeds, False, output_hidden_states, return_dict=True)
        logits = self.score(read.last_hidden_state)
        loss = self.loss_of(logits, labels, config=self.config, **kwargs)
        return TokenClassifierOutput(loss=loss, logits=logits, hidden_states=read.hidden_states)
