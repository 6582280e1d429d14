#!/usr/bin/env bash
# ablations.sh ptb|wt2|small WHICH: the paper's model without one of its ingredients (its table 4). See common.sh.
# small: 1.7M parameters in place of 24.2M and the first 4,000 lines of Penn Treebank's training text, as many parameters
# for a token as there, so that 45 epochs are enough to fit it too closely: ten minutes each on a thread of a CPU. The
# dropouts are about half the paper's, of which so narrow a model learns too slowly; weight decay is ten times the
# paper's, for a thirtieth of the updates.
# WHICH: fine-tuning, nt-asgd, variable-bptt, embedding-dropout, weight-decay, ar-tar, small-embedding, weight-drop;
# nothing, which is the whole; or all, in the order in which they matter. Without fine-tuning it is the first step of the
# whole; without NT-ASGD, the learning rate is halved where validation stalls, and nothing is averaged in fine-tuning
# either. Of small also the whole with another cell, with the same width (gru) or number of parameters (gru-same-size,
# qrnn), or without all that keeps it from fitting the text too closely (regularisation). At the LSTM's learning rate
# of 30 a GRU's loss only rises.
. "$(dirname "$0")/common.sh"
usage="usage: ablations.sh ptb|wt2|small WHICH [flags of main.py and finetune.py] (WHICH is explained in this file)"
corpus=${1:-} which=${2:-}
[ $# -gt 1 ] && shift 2
case $corpus in
    ptb) prefix=ptb data_folder=data/penn published_seed=141 units=1150
         flags=(--batch-size 20 --dropouti 0.4 --dropouth 0.25 --epochs 500) ;;
    wt2) prefix=wt2 data_folder=data/wikitext-2 published_seed=1882 units=1150
         flags=(--dropouth 0.2 --epochs 750) ;;
    small) prefix=ptb-small data_folder=data/penn-4000 published_seed=141 units=300
         flags=(--batch-size 10 --bptt 35 --emsize 100 --nhid 300 --dropout 0.3 --dropouti 0.2 --dropouth 0.15
                --dropoute 0.05 --wdrop 0.3 --wdecay 1.2e-5 --epochs 45)
         fewer=(--epochs 12) ;;
    *) echo "$usage" >&2; exit 2 ;;
esac

# The small text: a tenth of it for validation, a tenth for the test; words that occur less than three times are <unk>.
if [ "$corpus" = small ] && [ -z "${DATA:-}${SMOKE:-}" ] && [ ! -e $data_folder ]; then
    [ -e data/penn/train.txt ] || { echo "ablations.sh: there is no data/penn/train.txt; ./getdata.sh gets it" >&2; exit 1; }
    head -n 4000 data/penn/train.txt | "$PYTHON" prepare.py text - --min-count 3 --valid 0.1 --test 0.1 --out $data_folder
fi

# both NAME FLAGS...: train and fine-tune with these flags
both() {
    recipe "$1" "$data_folder" "$published_seed"
    shift
    train "${flags[@]}" "$@"
    finetune "${flags[@]}" ${fewer[@]+"${fewer[@]}"} "$@"
}

# without INGREDIENT FLAGS...: the same
without() { both "$prefix-without-$1" "${@:2}"; }

ablation() {
    local which=$1
    shift
    case $which in
        nothing)           both "$prefix" "$@" ;;
        fine-tuning)       recipe "$prefix" "$data_folder" "$published_seed"
                           train "${flags[@]}" "$@" ;;
        nt-asgd)           recipe "$prefix-without-nt-asgd" "$data_folder" "$published_seed"
                           train "${flags[@]}" --on-stall halve "$@" ;;
        variable-bptt)     without variable-bptt --no-variable-bptt "$@" ;;
        embedding-dropout) without embedding-dropout --dropoute 0 "$@" ;;
        weight-decay)      without weight-decay --wdecay 0 "$@" ;;
        ar-tar)            without ar-tar --alpha 0 --beta 0 "$@" ;;
        small-embedding)   without small-embedding --emsize "$units" --no-tied "$@" ;;
        weight-drop)       without weight-drop --wdrop 0 "$@" ;;
        gru)               both "$prefix-gru" --model GRU --lr 10 "$@" ;;
        gru-same-size)     both "$prefix-gru-same-size" --model GRU --nhid 352 --lr 10 "$@" ;;
        qrnn)              both "$prefix-qrnn" --model QRNN --nlayers 4 --nhid 407 --wdrop 0.1 --dropouth 0.3 --clip 0.2 "$@" ;;
        regularisation)    without regularisation --dropout 0 --dropouti 0 --dropouth 0 --dropoute 0 --wdrop 0 --alpha 0 \
                               --beta 0 --wdecay 0 "$@" ;;
        *) echo "$usage" >&2; exit 2 ;;
    esac
}

if [ "$which" = all ]; then
    [ "$corpus" = small ] && cells="gru gru-same-size qrnn regularisation"
    for each in weight-drop small-embedding nt-asgd embedding-dropout weight-decay ar-tar variable-bptt nothing ${cells:-}; do
        ablation "$each" "$@"
    done
else
    ablation "$which" "$@"
fi
