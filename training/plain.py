"""The simplest AWD-LSTM that a reader would write: what bench.py measures ours against.

T window length, B batch size, E emsize, N = T·B.
"""
import torch
from torch import nn
from torch.nn import functional as F

from locked_dropout import LockedDropout

MODULES = {"LSTM": nn.LSTM, "GRU": nn.GRU}


def is_plain(args):
    """Whether torch has modules for the model that the flags describe."""
    return (args.model in MODULES and args.gate == "plain" and args.softmax == "split" and not args.cutoffs
            and not args.skip_output and args.nhidlast is None and not args.per_step_dropout and not args.pdr
            and not args.untied_masks and args.word_masks == "batch")


class Plain(nn.Module):
    """nn.LSTM or nn.GRU, F.dropout on the weight, nn.CrossEntropyLoss, SGD; with the weights of an RNNModel, copied.

    It computes the same as that. args: the flags, of which `is_plain` holds.
    """

    def __init__(self, model, args):
        super().__init__()
        self.args, self.drop, self.loss = args, LockedDropout(), nn.CrossEntropyLoss()
        self.encoder = nn.Embedding.from_pretrained(model.encoder.weight.detach().clone(), freeze=False,
                                                    padding_idx=model.encoder.padding_idx)
        self.rnns = nn.ModuleList(MODULES[model.config.model](rnn.input_size, rnn.hidden_size) for rnn in model.rnns)
        self.rnns.load_state_dict(model.rnns.state_dict())
        self.decoder = nn.Linear(model.decoder.in_features, model.decoder.out_features)
        self.decoder.load_state_dict(model.decoder.state_dict())
        if model.config.tied:
            self.decoder.weight = self.encoder.weight
        self.to(model.encoder.weight.device)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=args.lr, weight_decay=args.wdecay)

    def forward(self, data, hidden):
        args, encoder = self.args, self.encoder
        word_mask = F.dropout(encoder.weight.new_ones(encoder.num_embeddings, 1), args.dropoute, self.training)
        x = F.embedding(data, encoder.weight * word_mask, padding_idx=encoder.padding_idx)   # (T, B, E)
        x = self.drop(x, args.dropouti)
        states = []
        for layer, (rnn, h) in enumerate(zip(self.rnns, hidden), start=1):
            weights = {"weight_hh_l0": F.dropout(rnn.weight_hh_l0, args.wdrop, self.training)}
            raw, h = torch.func.functional_call(rnn, weights, (x, h))                        # (T, B, H)
            x = self.drop(raw, args.dropouth if layer < args.nlayers else args.dropout)
            states.append(h)
        return self.decoder(x.flatten(0, 1)), states, raw, x

    def step(self, data, targets, hidden):
        """Forward, backward, clip, update -> mean loss, new hidden."""
        self.optimizer.zero_grad()
        logits, hidden, raw, dropped = self(data, hidden)
        loss = self.loss(logits, targets)
        total = loss + self.args.alpha * dropped.pow(2).mean() + self.args.beta * (raw[1:] - raw[:-1]).pow(2).mean()
        total.backward()
        nn.utils.clip_grad_norm_(self.parameters(), self.args.clip)
        self.optimizer.step()
        return loss.detach(), hidden

    @torch.no_grad()
    def evaluate(self, streams, hidden):
        """Mean cross-entropy over `streams` (L, B) in nats, without dropout."""
        total = 0.0
        for row in range(0, len(streams) - 1, self.args.bptt):
            x = self.encoder(streams[row:row + self.args.bptt])
            targets = streams[row + 1:row + self.args.bptt + 1].flatten()
            x = x[:len(targets) // streams.size(1)]
            for layer, rnn in enumerate(self.rnns):
                x, hidden[layer] = rnn(x, hidden[layer])
            total += F.cross_entropy(self.decoder(x.flatten(0, 1)), targets, reduction="sum").item()
        return total / (len(streams) - 1) / streams.size(1)
