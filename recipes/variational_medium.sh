#!/usr/bin/env bash
# The variational LSTM of Gal and Ghahramani 2016, medium: 2 layers of 650 units, embeddings not tied. Paper, each gate
# with masks of its own ("untied weights"), validation and test: 81.9 / 79.7, with Monte Carlo dropout test 78.6.
# Learning rate and clipping are theirs, converted: their loss is the sum over the 35 steps of a window, here it is the
# mean, so the rate is 35 x 1, clipping 5 / 35; the decay of 1e-7 a step is apart from both. A sample of the masks holds
# for the whole text, in which no words are dropped; the published code averages 2,000 (MC_SAMPLES=2000), here it is
# 100. See common.sh.
. "$(dirname "$0")/common.sh"
recipe ptb-variational-medium data/penn 141
fewer=()
[ -z "${SMOKE:-}" ] || { small+=(--bptt 140) fewer=(--split test); }
train --batch-size 20 --emsize 650 --nhid 650 --nlayers 2 --no-tied --bptt 35 --no-variable-bptt \
    --dropoute 0.2 --dropouti 0.35 --dropouth 0.35 --dropout 0.35 --dropoutr 0.2 --untied-masks --word-masks stream \
    --wdrop 0 --alpha 0 --beta 0 --lr 35 --clip 0.143 --wdecay 1e-7 --decay-with apart --on-stall nothing \
    --decay 1.2 --decay-from 7 --epochs 39 --init-range 0.05 "$@"
score --mc-samples "${MC_SAMPLES:-$([ -n "${SMOKE:-}" ] && echo 2 || echo 100)}" --mc-mask text \
    ${fewer[@]+"${fewer[@]}"}
