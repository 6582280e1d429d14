"""Before a run relies on CUDA graphs: a few tiny steps, recorded and plain, must leave the same weights."""
import torch

from model import RNNModel
from nt_asgd import NTASGD
from ops.graphs import Recording
from training.compose import compose
from training.step import TrainStep

STEPS, WORDS = 4, 32           # of one shape: one run as it is, one recorded and replayed, two replayed


def recording_for(model, device, graphs):
    """A Recording where steps of `model` are to be replayed as CUDA graphs, stopped at once if these are not to be
    relied on; else None."""
    if device.type != "cuda" or not graphs or not model.can_be_graphed:
        return None
    recording, reason = Recording(), check_graphs(device)
    if reason:
        recording.stop(reason)
    return recording


def check_graphs(device):
    """Why graphs are not to be relied on, in a few words, or None. Takes under two seconds; draws no random numbers."""
    with torch.random.fork_rng([device]):
        recording = Recording()
        weights = [_train(device, recording) for recording in (None, recording)]
    recording.drop()
    if recording.reason:
        return recording.reason
    if all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(*weights)):
        return None
    return "a recorded step computes something else than the same step run plainly"


def _train(device, recording):
    """A tiny model's weights, on the CPU, after STEPS steps."""
    torch.manual_seed(0)
    model = RNNModel("LSTM", WORDS, 8, 16, 2, 0.2, 0.2, 0.2, 0.1, 0.3).to(device)
    step = TrainStep(model, NTASGD(model.parameters(), lr=1), bptt=5, clip=0.25, alpha=2, beta=1)
    if recording:
        step = compose(step, recording=recording)
    text = torch.arange(6 * 4, device=device).view(6, 4) % WORDS
    hidden = model.init_hidden(4)
    for _ in range(STEPS):
        _, hidden = step(text[:-1], text[1:].flatten(), hidden)
    return [p.detach().cpu() for p in model.parameters()]
