"""Surprisals of a stimulus list, word by word.

    python examples/surprisals.py demo.pt items.tsv surprisals.tsv

items.tsv has a heading and a column `sentence`; its other columns, such as `item` and `condition`, are repeated in
every row of the output. Every sentence is read by itself, its first word after <eos>.
"""
import csv
import sys

from awd_lstm import LanguageModel

path, source, target = sys.argv[1:]
plain = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
with open(source, encoding="utf-8", newline="") as file:
    items = list(csv.DictReader(file, **plain))

model = LanguageModel.load(path)
scored = model.score([item.pop("sentence") for item in items])

with open(target, "w", encoding="utf-8", newline="") as file:
    rows = csv.writer(file, **plain, lineterminator="\n")
    rows.writerow([*items[0], "position", "word", "surprisal", "unknown"])
    for item, sentence in zip(items, scored):
        for position, word in enumerate(sentence.words[:-1], start=1):         # all but the <eos>
            rows.writerow([*item.values(), position, word.word, f"{word.surprisal:.4f}", int(word.unknown)])
