#!/usr/bin/env bash
# skip_lstm.sh ptb|wt2: the LSTM with skip connections of Melis et al. 2018, 24M parameters, tied. Paper, validation
# and test: Penn Treebank (4 layers) 60.9 / 58.3, WikiText-2 (2 layers) 69.1 / 65.9. Adam does not mind that their
# loss is the sum over the 35 steps of a window and here it is the mean, so the rate is theirs; clipping is 10 / 35 =
# 0.286, and decay, the gradient of half the squared norm, 7.45e-5 / 35 = 2.13e-6 and 3.78e-5 / 35 = 1.08e-6. A turn
# is 100 steps (the script for WikiText-2 has its turns commented out: probably 200 there). The rate is divided by 10
# after 27 turns without a new best, and after turn 900 if it was not before. The embedding starts uniform with their
# standard deviation of 1 / sqrt(E): up to sqrt(3 / E). See common.sh.
. "$(dirname "$0")/common.sh"
corpus=${1:-}
[ $# -gt 0 ] && shift
case $corpus in
    ptb) recipe ptb-skip-lstm data/penn 141
         size=(--emsize 723 --nhid 723 --nlayers 4 --init-range 0.0644)
         regularisation=(--dropouti 0.634 --dropouth 0.309 --dropoutr 0.643 --dropout 0.701 --wdecay 2.13e-6)
         rate=3.96e-3 turn=100 ;;
    wt2) recipe wt2-skip-lstm data/wikitext-2 1882
         size=(--emsize 149 --nhid 1227 --nlayers 2 --init-range 0.142)
         regularisation=(--dropouti 0.484 --dropouth 0.092 --dropoutr 0.454 --dropout 0.391 --dropoutp 0.391
                         --wdecay 1.08e-6)
         rate=2.46e-3 turn=200 ;;
    *) echo "usage: skip_lstm.sh ptb|wt2 [flags of main.py]" >&2; exit 2 ;;
esac
train --skip-output --gate capped --forget-bias 1 --weight-init fan-in "${size[@]}" --batch-size 64 --bptt 35 \
    --no-variable-bptt --read-on --state-drop 0.01 "${regularisation[@]}" --per-step-dropout --decay-with loss \
    --dropoute 0 --wdrop 0 --alpha 0 --beta 0 \
    --optimizer adam --beta1 0 --beta2 0.999 --lr "$rate" --clip 0.286 --turn-steps "$turn" --epochs 1000 \
    --on-stall divide --stall-divisor 10 --patience 27 --stall-by 900 "$@"
score --search-temperature
