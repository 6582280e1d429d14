"""What a trained model can be asked: python examples/ten_lines.py demo.pt "the function returns a list" """
import sys

from awd_lstm import LanguageModel

if len(sys.argv) < 2:
    sys.exit(__doc__)
model = LanguageModel.load(sys.argv[1])
sentences = sys.argv[2:] or ["the function returns a list", "the list returns a function"]
for sentence, scored in zip(sentences, model.score(sentences)):
    print(f"{scored.logprob:8.2f} nats  {sentence}")
    print("        ", *(f"{word.word}:{word.surprisal:.1f}" for word in scored.words))
print("perplexity", round(model.perplexity(sentences), 2))
start = " ".join(sentences[0].split()[:2])
print("next", model.next(start, k=5))
vectors, words = model.features(sentences[0])
print("features", tuple(vectors.shape), words)
print("sample", *model.generate(start, words=20, seed=1))
