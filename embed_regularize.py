"""Embedding dropout: whole words dropped from the input (Gal & Ghahramani 2016; Merity et al. 2018, section 4.3)."""
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def embedded_dropout(embed: nn.Embedding, words: Tensor, dropout: float = 0.1,
                     scale: Tensor | None = None, by_column: bool = False) -> Tensor:
    """Embed `words` (T, B) with `embed`, an nn.Embedding of V words, dropping words by type -> (T, B, E).

    dropout: probability that a word of the vocabulary is zero wherever it occurs in this call; the vectors of the
    others are scaled by 1 / (1 - dropout). Raises ValueError outside [0, 1].
    by_column: whether every column of the batch draws a mask of its own.
    scale: optional factors (V,) or (V, 1), one per word, multiplied in.

    Only the rows looked up are masked: the result and the gradient are those of masking the whole (V, E) table.
    """
    vectors = embed(words)                                    # (T, B, E)
    if dropout:
        columns = torch.arange(words.size(1) if by_column else 1, device=words.device)             # (B,) or (1,)
        mask = F.dropout(embed.weight.new_ones(embed.num_embeddings, len(columns)), dropout)       # (V, B) or (V, 1)
        vectors = vectors * mask[words, columns].unsqueeze(2)                # (T, B, 1) over (T, B, E)
    if scale is not None:
        vectors = vectors * scale.view(-1, 1)[words]
    return vectors
