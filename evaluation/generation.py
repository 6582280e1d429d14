"""Words drawn from a model: each next one from its softmax, then fed back.

T prompt length, E width of a feature, V vocabulary.
"""
import torch

from evaluation.loss import evaluating

LEAST_TEMPERATURE = 1e-30        # below it, all but the likeliest word have probability 0, and numbers overflow


def next_word(logprobs, temperature, top_k=0, top_p=1.0, generator=None):
    """Draw an id from `logprobs` (V,), sharpened (temperature < 1) or flattened; at temperature 0 the likeliest.

    Only from the `top_k` likeliest, if that is not 0, and only from the likeliest that together have a probability of
    `top_p` or more, after the temperature (Holtzman et al. 2020, 1904.09751): at least one.
    """
    if temperature < LEAST_TEMPERATURE:
        return logprobs.argmax().item()
    logits = logprobs / temperature
    if 0 < top_k < len(logits):
        best = logits.topk(top_k)                                                      # of equal ones no more than K
        logits = torch.full_like(logits, -torch.inf).scatter(0, best.indices, best.values)
    probabilities = logits.softmax(0)
    if top_p < 1:
        ordered, ids = probabilities.sort(descending=True)
        likelier = ordered.cumsum(0) - ordered                                         # all words before, together
        probabilities = probabilities.index_fill(0, ids[1:][likelier[1:] >= top_p], 0)
    return torch.multinomial(probabilities, 1, generator=generator).item()


def sample(model, prompt, words, temperature, top_k=0, top_p=1.0, generator=None):
    """Yield `words` ids that go on from `prompt`, a list of at least one id.

    generator: a CPU generator of random numbers; if not given, torch's own.
    """
    device = model.encoder.weight.device
    with evaluating(model):
        hidden = model.init_hidden(1)
        data = torch.tensor(prompt, device=device)[:, None]                            # (T, 1)
        for _ in range(words):
            features, hidden = model(data, hidden)                                     # (T, E)
            logprobs = model.logprob(features[-1:])                                    # (1, V)
            word = next_word(logprobs[0].float().cpu(), temperature, top_k, top_p, generator)
            yield word
            data = torch.tensor([[word]], device=device)                               # (1, 1)
