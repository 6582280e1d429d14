"""Rescoring of n-best lists, as of a speech recogniser.

    python examples/rescoring.py demo.pt nbest.tsv --weight 0.5 --per-word 0.0 > best.tsv

A line of nbest.tsv is: utterance, the recogniser's log-score in nats, hypothesis; tabs between them. Of each utterance
the hypothesis with the highest sum is printed:  score + weight · log p(hypothesis) + per_word · words.
"""
import argparse

from awd_lstm import LanguageModel

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("nbest")
parser.add_argument("--weight", type=float, default=0.5, help="weight of the language model")
parser.add_argument("--per-word", type=float, default=0.0, help="score added for every word: long hypotheses lose less")
args = parser.parse_args()

with open(args.nbest, encoding="utf-8") as file:
    hypotheses = [line.rstrip("\n").split("\t") for line in file]
for number, fields in enumerate(hypotheses, start=1):
    if len(fields) != 3:
        parser.error(f"{args.nbest}, line {number}: {len(fields)} fields with tabs between them, not 3")
scored = LanguageModel.load(args.model).score([text for _, _, text in hypotheses])       # all of them at once

best = {}
for (utterance, score, text), sentence in zip(hypotheses, scored):
    total = float(score) + args.weight * sentence.logprob + args.per_word * (len(sentence.words) - 1)
    if utterance not in best or total > best[utterance][0]:
        best[utterance] = total, text
for utterance, (total, text) in best.items():
    print(utterance, f"{total:.4f}", text, sep="\t")
