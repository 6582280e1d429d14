"""The validation loss of a model in training, and of its average."""
from evaluation.loss import total_loss, window_loss
from training.compose import compose_loss


class Validation:
    """Scores the validation text, streams (L, B), of which each process of `group` reads a part."""

    def __init__(self, model, streams, bptt, group, device, recording):
        self.model, self.bptt, self.group = model, bptt, group
        self.own = streams[:, group.share(streams.size(1))].contiguous()
        self.window_loss = compose_loss(window_loss(model), device, recording)

    def loss(self, check):
        """Mean loss in nats of the weights as they are. check: called after every window, by a process alone."""
        check = check if self.group.size == 1 else lambda: None             # several stop between two steps
        nats, tokens = 0.0, 0
        if self.own.size(1):
            nats, tokens = total_loss(self.model, self.own, self.bptt, check, self.window_loss)
        nats, tokens = self.group.all_reduce_sum(nats, tokens)
        return nats / tokens

    def losses(self, optimizer, check):
        """-> loss of the weights that are trained and, once there is one, of their average, else None."""
        trained, average = self.loss(check), None
        if getattr(optimizer, "averaging", False):
            with optimizer.averaged():
                average = self.loss(check)
        return trained, average
