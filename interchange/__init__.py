"""Models for other programs, and from them. A format is a file of its own and an entry here.

TO: a function (checkpoint's contents, its state dict, folder or file, words seen or None, options) that writes it.
FROM: a function (path, vocabulary's path or None) -> (state dict, vocabulary, settings that differ from the defaults,
and "words_seen" where the source says it).
"""
from interchange import fastai, hf, onnx, plain_lstm

TO = {"hf": hf.write, "fastai": fastai.write, "onnx": onnx.write}
FROM = {"hf": hf.read, "fastai": fastai.read, "lstm": plain_lstm.read}
