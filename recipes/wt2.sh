#!/usr/bin/env bash
# WikiText-2. Paper, test: 66.0, fine-tuned 65.8, with the cache 52.0. See common.sh for what can be set.
. "$(dirname "$0")/common.sh"
recipe wt2 data/wikitext-2 1882
flags=(--dropouth 0.2 --epochs 750)
train "${flags[@]}" "$@"
finetune "${flags[@]}" "$@"
point --lambdasm 0.1279 --theta 0.662 --window 3785 --bptt 2000
