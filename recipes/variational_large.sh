#!/usr/bin/env bash
# The variational LSTM of Gal and Ghahramani 2016, large: 2 layers of 1500 units, embeddings not tied. Paper,
# test, with masks that a layer's gates share ("tied"), as here: 75.0, and 74.1 with Monte Carlo dropout (from memory, not
# checked); with a mask for each gate ("untied"), which is not built here: 75.2 and 73.4. Rate and clipping are theirs,
# converted from a loss summed over a window: 35 x 1, 10 / 35, as in variational_medium.sh; the decay of 1e-7 a step is
# apart from both. See common.sh.
. "$(dirname "$0")/common.sh"
recipe ptb-variational-large data/penn 141
fewer=()
[ -z "${SMOKE:-}" ] || { small+=(--bptt 140) fewer=(--split test); }
train --batch-size 20 --emsize 1500 --nhid 1500 --nlayers 2 --no-tied --bptt 35 --no-variable-bptt \
    --dropoute 0.3 --dropouti 0.5 --dropouth 0.5 --dropout 0.5 --dropoutr 0.3 --wdrop 0 --alpha 0 --beta 0 \
    --lr 35 --clip 0.286 --wdecay 1e-7 --decay-with apart --on-stall nothing --decay 1.15 --decay-from 11 --epochs 55 \
    --init-range 0.04 "$@"
score --mc-samples "${MC_SAMPLES:-$([ -n "${SMOKE:-}" ] && echo 2 || echo 100)}" ${fewer[@]+"${fewer[@]}"}
