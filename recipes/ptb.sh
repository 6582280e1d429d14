#!/usr/bin/env bash
# Penn Treebank. Paper, test: 58.8, fine-tuned 57.3, with the cache 52.8. See common.sh for what can be set.
. "$(dirname "$0")/common.sh"
recipe ptb data/penn 141
flags=(--batch-size 20 --dropouti 0.4 --dropouth 0.25 --epochs 500)
train "${flags[@]}" "$@"
finetune "${flags[@]}" "$@"
point --lambdasm 0.1 --theta 1.0 --window 500 --bptt 5000
