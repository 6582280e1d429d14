#!/usr/bin/env bash
# qrnn.sh ptb|wt2: QRNNs in place of LSTMs. Published code, test: Penn Treebank 58.3, fine-tuned 56.7, with the cache
# 52.6; WikiText-2 66.8, 65.9, 52.1. See common.sh.
. "$(dirname "$0")/common.sh"
corpus=${1:-}
[ $# -gt 0 ] && shift
flags=(--model QRNN --wdrop 0.1 --nhid 1550 --nlayers 4 --dropouti 0.4)
case $corpus in
    ptb) recipe ptb-qrnn data/penn 9001
         flags+=(--batch-size 20 --clip 0.2 --dropouth 0.3 --epochs 550)
         cache=(--lambdasm 0.1 --theta 1.0 --window 500 --bptt 5000) ;;
    wt2) recipe wt2-qrnn data/wikitext-2 4002
         flags+=(--batch-size 40 --clip 0.25 --dropouth 0.2 --epochs 500)
         cache=(--lambdasm 0.1279 --theta 0.662 --window 3785 --bptt 2000) ;;
    *) echo "usage: qrnn.sh ptb|wt2 [flags of main.py and finetune.py]" >&2; exit 2 ;;
esac
train "${flags[@]}" "$@"
finetune "${flags[@]}" "$@"
point "${cache[@]}"
