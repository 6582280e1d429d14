#!/usr/bin/env bash
# The variational LSTM of Gal and Ghahramani 2016, large: 2 layers of 1500 units, embeddings not tied. Paper, each gate
# with masks of its own ("untied weights"), validation and test: 77.9 / 75.2, with Monte Carlo dropout test 73.4. Words
# were dropped at every place anew there; with one mask for a word in a stream, as here, the code's README has 77.5 /
# 75.1 and 73.3. Rate and clipping are 35 x 1 and 10 / 35; why, and about samples, see variational_medium.sh. See
# common.sh.
. "$(dirname "$0")/common.sh"
recipe ptb-variational-large data/penn 141
fewer=()
[ -z "${SMOKE:-}" ] || { small+=(--bptt 140) fewer=(--split test); }
train --batch-size 20 --emsize 1500 --nhid 1500 --nlayers 2 --no-tied --bptt 35 --no-variable-bptt \
    --dropoute 0.3 --dropouti 0.5 --dropouth 0.5 --dropout 0.5 --dropoutr 0.3 --untied-masks --word-masks stream \
    --wdrop 0 --alpha 0 --beta 0 --lr 35 --clip 0.286 --wdecay 1e-7 --decay-with apart --on-stall nothing \
    --decay 1.15 --decay-from 11 --epochs 55 --init-range 0.04 "$@"
score --mc-samples "${MC_SAMPLES:-$([ -n "${SMOKE:-}" ] && echo 2 || echo 100)}" --mc-mask text \
    ${fewer[@]+"${fewer[@]}"}
