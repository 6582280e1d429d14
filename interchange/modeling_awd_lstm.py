"""An AWD-LSTM language model (Merity et al. 2018) for Hugging Face transformers. Needs torch and transformers alone.

Dropout is not here: what trains further with this file trains without it.
T steps, B batch size, E emsize, H width of a layer's output, V words.
"""
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import PretrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

CELLS = {"LSTM": nn.LSTM, "GRU": nn.GRU}


class AWDLSTMConfig(PretrainedConfig):
    """The shape of a model.

    cell: LSTM or GRU. emsize: E. nhid: H of all layers but the last, whose H is nhidlast. skip_output: words are
    predicted from the sum of all layers' outputs. cutoffs: those of the adaptive softmax, none for the full one.
    tie_word_embeddings: decoder and encoder share one matrix. settings, words_seen: of the training, for its own tools.
    """
    model_type = "awd_lstm"
    attribute_map = {"hidden_size": "nhid", "num_hidden_layers": "nlayers"}  # noqa: RUF012
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    def __init__(self, cell="LSTM", vocab_size=10000, emsize=400, nhid=1150, nhidlast=400, nlayers=3,
                 skip_output=False, cutoffs=(), settings=None, words_seen=None, use_cache=True, **kwargs):
        self.cell, self.vocab_size = cell, vocab_size
        self.emsize, self.nhid, self.nhidlast, self.nlayers = emsize, nhid, nhidlast, nlayers
        self.skip_output, self.cutoffs = skip_output, list(cutoffs)
        self.settings, self.words_seen, self.use_cache = settings or {}, words_seen, use_cache
        super().__init__(**kwargs)


class RecurrentState:
    """What stands for a text that was read, in the place of a cache: of each layer a tuple of (1, B, H).

    length: how many steps were read, padding among them.
    """
    is_compileable = is_croppable = False

    def __init__(self, layers, length=0):
        self.layers, self.length = layers, length

    def get_seq_length(self, layer_idx=0):
        return self.length

    def reorder_cache(self, rows):
        self.layers = [tuple(part.index_select(1, rows.to(part.device)) for part in layer) for layer in self.layers]


class Padding:
    """Steps that no layer sees: its state is not changed by them, and its output there is its state.

    mask (B, T): false at padding, wherever that is.
    """

    def __init__(self, mask):
        self.order = mask.long().argsort(dim=1, descending=True, stable=True)   # (B, T), the real steps first
        self.lengths, self.seen = mask.sum(1), mask.cumsum(1)                   # (B,), (B, T)

    def compact(self, x):
        """x (B, T, ·) with the real steps of every row at its beginning."""
        return x.gather(1, self.order[..., None].expand_as(x))

    def run(self, rnn, x, before):
        """A layer over compact x (B, T, ·) -> output (B, T, H), compact; the state after it."""
        packed = pack_padded_sequence(x, self.lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        packed, after = run(rnn, packed, before)
        read = (self.lengths > 0)[:, None]                                      # (B, 1)
        return (pad_packed_sequence(packed, batch_first=True, total_length=x.size(1))[0],
                tuple(torch.where(read, new, old) for new, old in zip(after, before)))

    def spread(self, y, before):
        """Compact y (B, T, H) with every step at its place again; at padding the output before it."""
        y = torch.cat([before[0].transpose(0, 1).to(y.dtype), y], 1)            # (B, 1 + T, H)
        return y.gather(1, self.seen[..., None].expand(-1, -1, y.size(2)))      # (B, T, H)


def run(rnn, x, before):
    """A layer with its state as a tuple, whatever its kind -> output, state."""
    y, after = rnn(x, before if len(before) > 1 else before[0])
    return y, after if len(before) > 1 else (after,)


class AWDLSTMForCausalLM(PreTrainedModel, GenerationMixin):
    """Embedding, recurrent layers, decoder. With cutoffs the logits are log-probabilities (adaptive softmax)."""
    config_class = AWDLSTMConfig
    base_model_prefix = ""
    _tied_weights_keys = {"decoder.weight": "encoder.weight"}  # noqa: RUF012
    _is_stateful = True

    def __init__(self, config):
        super().__init__(config)
        widths = [config.emsize] + [config.nhid] * (config.nlayers - 1) + [config.nhidlast]
        decoded = config.emsize if config.tie_word_embeddings else config.nhidlast
        self.encoder = nn.Embedding(config.vocab_size, config.emsize)
        self.rnns = nn.ModuleList(CELLS[config.cell](n_in, n_out, batch_first=True)
                                  for n_in, n_out in zip(widths, widths[1:]))
        self.projection = nn.Linear(config.nhidlast, decoded, bias=False) if decoded != config.nhidlast else None
        self.decoder = nn.Linear(decoded, config.vocab_size)
        self.softmax = AdaptiveSoftmax(decoded, config.cutoffs) if config.cutoffs else None
        self.post_init()

    def get_input_embeddings(self):
        return self.encoder

    def set_input_embeddings(self, value):
        self.encoder = value

    def get_output_embeddings(self):
        return self.decoder

    def set_output_embeddings(self, value):
        self.decoder = value

    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, inputs_embeds=None, labels=None,
                use_cache=None, output_hidden_states=None, return_dict=None, logits_to_keep=0, **kwargs):
        """input_ids (B, T) -> logits (B, T, V); loss, the mean over labels (B, T) shifted by one, but for -100.

        attention_mask (B, T), or (B, steps read before + T): 0 at padding, left or right. past_key_values: a
        RecurrentState to go on from. hidden_states: the embedded input, then each layer's output (B, T, H).
        logits_to_keep: of the last steps only, 0 for all.
        """
        x = self.encoder(input_ids) if inputs_embeds is None else inputs_embeds  # (B, T, E)
        past = past_key_values or self._zero_state(x)
        mask = None if attention_mask is None else attention_mask[:, -x.size(1):].bool()
        padding = None if mask is None or bool(mask.all()) else Padding(mask)
        outputs, layers = [x], []
        x = padding.compact(x) if padding else x
        for rnn, before in zip(self.rnns, past.layers):
            x, after = padding.run(rnn, x, before) if padding else run(rnn, x, before)
            outputs.append(padding.spread(x, before) if padding else x)          # (B, T, H)
            layers.append(after)
        features = sum(outputs[1:]) if self.config.skip_output else outputs[-1]
        features = features[:, -logits_to_keep:] if isinstance(logits_to_keep, int) else features[:, logits_to_keep]
        features = self.projection(features) if self.projection else features
        logits = self.softmax(self.decoder, features) if self.softmax else self.decoder(features)     # (B, T, V)

        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.size(-1), **kwargs)
        asked, default = output_hidden_states, getattr(self.config, "output_hidden_states", False)
        use_cache = self.config.use_cache if use_cache is None else use_cache
        found = CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=tuple(outputs) if (default if asked is None else asked) else None,
            past_key_values=RecurrentState(layers, past.length + outputs[0].size(1)) if use_cache else None)
        return found if (self.config.return_dict if return_dict is None else return_dict) else found.to_tuple()

    def _zero_state(self, x):
        parts = 2 if self.config.cell == "LSTM" else 1
        return RecurrentState([(x.new_zeros(1, x.size(0), rnn.hidden_size),) * parts for rnn in self.rnns])

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, attention_mask=None, inputs_embeds=None,
                                      use_cache=None, logits_to_keep=0, **kwargs):
        """Of the ids those that have not been read yet."""
        embeds = inputs_embeds if past_key_values is None else None              # of a prompt, for the first step alone
        if past_key_values is not None:
            steps = (input_ids if attention_mask is None else attention_mask).size(1)
            input_ids = input_ids[:, past_key_values.get_seq_length() - steps:]
        return {"input_ids": input_ids if embeds is None else None, "inputs_embeds": embeds,
                "attention_mask": attention_mask, "past_key_values": past_key_values, "use_cache": use_cache,
                "logits_to_keep": logits_to_keep}

    @classmethod
    def _supports_default_dynamic_cache(cls):
        return False                                                             # its state is none of keys and values


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
        edges = [cut for cut in self.cutoffs if cut < len(weight)] + [len(weight)]
        tails = len(edges) - 1
        head = F.log_softmax(F.linear(features, torch.cat([weight[:edges[0]], self.tail_vectors[:tails]]),
                                      torch.cat([bias[:edges[0]], self.tail_bias[:tails]])), -1)
        parts = [head[..., :edges[0]]]
        for k, (low, high) in enumerate(zip(edges, edges[1:])):
            tail = F.log_softmax(F.linear(features, weight[low:high], bias[low:high]), -1)
            parts.append(head[..., -1 - k, None] + tail)                         # the tails' entries in falling order
        return torch.cat(parts, -1)
