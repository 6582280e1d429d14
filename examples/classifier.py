"""WeightDrop, LockedDropout and NTASGD in a sentence classifier of one's own: python examples/classifier.py

The task: did the word A come before the word B? Both are in every sentence, so the words alone say nothing; and every
tenth label of training is wrong. It ends with an error where fewer than 95% of the test sentences are right.

T sentence length, N sentences, E width of a word vector, H width of the LSTM.
"""
import torch
from torch import nn
from torch.nn import functional as F

from awd_lstm import NTASGD, LockedDropout, WeightDrop, has_stalled

V, T, A, B = 20, 10, 0, 1


class Classifier(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.words = nn.Embedding(V, width)
        self.lstm = WeightDrop(nn.LSTM(width, width), ["weight_hh_l0"], dropout=0.2)
        self.dropout = LockedDropout()
        self.decide = nn.Linear(width, 2)

    def forward(self, text):
        x = self.dropout(self.words(text), 0.1)                  # (T, N, E)
        outputs, _ = self.lstm(x)                                # (T, N, H)
        return self.decide(self.dropout(outputs, 0.1)[-1])       # (N, 2)


def make(n, wrong=0.0):
    """Random sentences with A and B in each, and their labels, a share of them wrong -> (T, N), (N,)."""
    text = torch.randint(2, V, (T, n))
    places = torch.rand(T, n).argsort(0)[:2]                                     # (2, N), two different ones
    text.scatter_(0, places, torch.tensor([[A], [B]]).expand(2, n))
    return text, ((places[0] < places[1]) ^ (torch.rand(n) < wrong)).long()


def evaluate(model, optimizer, text, labels):
    """Loss and accuracy, of the averaged weights once there are such."""
    model.eval()
    with optimizer.averaged(), torch.no_grad():
        scores = model(text)
    return F.cross_entropy(scores, labels).item(), (scores.argmax(1) == labels).float().mean().item()


torch.manual_seed(1)
train, valid, test = make(2000, wrong=0.1), make(500), make(500)
model = Classifier()
optimizer = NTASGD(model.parameters(), lr=1.0, weight_decay=1e-6)
losses = []
for epoch in range(1, 13):
    model.train()
    for batch in torch.randperm(2000).split(50):
        optimizer.zero_grad()
        F.cross_entropy(model(train[0][:, batch]), train[1][batch]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
    loss, accuracy = evaluate(model, optimizer, *valid)
    print(f"epoch {epoch:2} | valid loss {loss:.3f} | accuracy {accuracy:.1%}" + (" | averaged" * optimizer.averaging))
    losses.append(loss)
    if has_stalled(losses, 2):
        optimizer.start_averaging()

loss, accuracy = evaluate(model, optimizer, *test)
print(f"test accuracy {accuracy:.1%}")
if accuracy < 0.95:
    raise SystemExit("fewer than 95% of the test sentences are right")
