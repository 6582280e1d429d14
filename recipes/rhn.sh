#!/usr/bin/env bash
# The variational recurrent highway network of Zilly et al. 2017: one layer of 830 units, depth 10, tied. Paper,
# validation and test: 67.9 / 65.4. Their loss is the sum over the 35 steps of a window and the mean over the batch,
# here it is the mean over both. So gradients are those divided by 35: the rate is 35 x 0.2 = 7, clipping 10 / 35 =
# 0.286, decay (the gradient of 1e-7 x half the squared norm) 1e-7 / 35 = 2.86e-9, clipped together with the loss. They
# drop words for each stream of the batch by itself. See common.sh.
. "$(dirname "$0")/common.sh"
recipe ptb-rhn data/penn 141
train --model RHN --rhn-depth 10 --transform-bias -2 --init-range 0.04 --batch-size 20 --emsize 830 --nhid 830 \
    --nlayers 1 --bptt 35 --no-variable-bptt --dropoute 0.25 --word-masks stream --dropouti 0.75 --dropoutr 0.25 \
    --dropout 0.75 --dropouth 0 --wdrop 0 --alpha 0 --beta 0 --lr 7 --clip 0.286 --wdecay 2.86e-9 --decay-with loss \
    --on-stall nothing --decay 1.02 --decay-from 20 --epochs 500 "$@"
