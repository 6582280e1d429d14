"""Variational dropout of activations: one mask for all time steps (Gal & Ghahramani 2016; Merity et al. 2018, 4.1)."""
from torch import Tensor, nn
from torch.nn import functional as F


class LockedDropout(nn.Module):
    """`LockedDropout()(x (T, B, H), dropout) -> (T, B, H)`, or `LockedDropout(dropout)(x)`.

    dropout: probability in [0, 1], here or at the call, which takes precedence. One mask (1, B, H) is drawn per call
    and used at every time step; what is kept is scaled by 1 / (1 - dropout). batch_first: x is (B, T, H), the mask
    (B, 1, H). Returns `x` itself in evaluation and for dropout 0. Raises ValueError for a dropout outside [0, 1].
    """

    def __init__(self, dropout: float = 0.5, batch_first: bool = False) -> None:
        super().__init__()
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must be in [0, 1], not {dropout}")
        self.dropout, self.batch_first = dropout, batch_first

    def forward(self, x: Tensor, dropout: float | None = None) -> Tensor:
        dropout = self.dropout if dropout is None else dropout
        if not self.training or dropout == 0:
            return x
        shape = (x.size(0), 1, x.size(2)) if self.batch_first else (1, x.size(1), x.size(2))
        return x * F.dropout(x.new_ones(shape), dropout)                # (1, B, H) or (B, 1, H), over all time steps

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}, batch_first={self.batch_first}"
