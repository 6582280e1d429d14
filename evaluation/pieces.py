"""Scores of words out of those of the pieces that they were read in."""
from itertools import groupby

from evaluation.scoring import Scores


def join_pieces(text, scores, index, words):
    """A `Text` of pieces with their `Scores`, lists (N,) -> a Text and Scores of its words.

    index (N,): the number of each piece's word, from 0 on, never falling; `words`: what each of them is written as. By
    the chain rule a word's log-probability is the sum of its pieces'. Its entropy is that of its first piece's
    distribution: what is open before anything of the word is read. It has no rank, since no distribution over words was
    made. It is unknown where a piece of it is, and ends a line where its last piece does.
    """
    groups = [list(pieces) for _, pieces in groupby(range(len(index)), index.__getitem__)]
    joined = Scores([sum(scores.logprobs[i] for i in pieces) for pieces in groups], None,
                    scores.entropies and [scores.entropies[pieces[0]] for pieces in groups])
    return text._replace(words=words, ends=[text.ends[pieces[-1]] for pieces in groups],
                         unknown=[any(text.unknown[i] for i in pieces) for pieces in groups]), joined
