"""Variational dropout of activations: one mask for all time steps (Gal & Ghahramani 2016; Merity et al. 2018, 4.1)."""
from torch import nn
from torch.nn import functional as F


class LockedDropout(nn.Module):
    """`LockedDropout()(x (T, B, H), dropout) -> (T, B, H)`.

    One mask (1, B, H) is drawn per call and used at every time step; what is kept is scaled by 1 / (1 - dropout).
    Returns `x` itself in evaluation and for dropout 0. Raises ValueError for a dropout outside [0, 1].
    """

    def forward(self, x, dropout=0.5):
        if not self.training or dropout == 0:
            return x
        mask = F.dropout(x.new_ones(1, x.size(1), x.size(2)), dropout)  # (1, B, H)
        return x * mask                                                 # (T, B, H)
