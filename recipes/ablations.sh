#!/usr/bin/env bash
# ablations.sh ptb|wt2|small WHICH: the paper's model without one of its ingredients (its table 4). See common.sh.
# small: Penn Treebank with 1.4M parameters in place of 24.2M, and few epochs, of which the last are averaged without
# waiting for a stall: hours on a CPU.
# WHICH: fine-tuning, nt-asgd, variable-bptt, embedding-dropout, weight-decay, ar-tar, small-embedding, weight-drop;
# nothing, which is the whole; or all, in the order in which they matter. Without fine-tuning it is the first step of the
# whole; without NT-ASGD, the learning rate is halved where validation stalls, and nothing is averaged in fine-tuning
# either.
. "$(dirname "$0")/common.sh"
usage="usage: ablations.sh ptb|wt2|small WHICH [flags of main.py and finetune.py] (WHICH is explained in this file)"
corpus=${1:-} which=${2:-}
[ $# -gt 1 ] && shift 2
case $corpus in
    ptb) prefix=ptb data_folder=data/penn published_seed=141 units=1150
         flags=(--batch-size 20 --dropouti 0.4 --dropouth 0.25 --epochs 500) ;;
    wt2) prefix=wt2 data_folder=data/wikitext-2 published_seed=1882 units=1150
         flags=(--dropouth 0.2 --epochs 750) ;;
    small) prefix=ptb-small data_folder=data/penn published_seed=141 units=200
         flags=(--batch-size 20 --emsize 100 --nhid 200 --nlayers 2 --dropout 0.1 --dropouti 0.1 --dropouth 0.1
                --dropoute 0.05 --wdrop 0.2 --epochs 5)
         average=(--average-from 3) fewer=(--epochs 1) ;;
    *) echo "$usage" >&2; exit 2 ;;
esac

# both NAME FLAGS...: train and fine-tune with these flags
both() {
    recipe "$1" "$data_folder" "$published_seed"
    shift
    train "${flags[@]}" ${average[@]+"${average[@]}"} "$@"
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
                           train "${flags[@]}" ${average[@]+"${average[@]}"} "$@" ;;
        nt-asgd)           recipe "$prefix-without-nt-asgd" "$data_folder" "$published_seed"
                           train "${flags[@]}" --on-stall halve "$@" ;;
        variable-bptt)     without variable-bptt --no-variable-bptt "$@" ;;
        embedding-dropout) without embedding-dropout --dropoute 0 "$@" ;;
        weight-decay)      without weight-decay --wdecay 0 "$@" ;;
        ar-tar)            without ar-tar --alpha 0 --beta 0 "$@" ;;
        small-embedding)   without small-embedding --emsize "$units" --no-tied "$@" ;;
        weight-drop)       without weight-drop --wdrop 0 "$@" ;;
        *) echo "$usage" >&2; exit 2 ;;
    esac
}

if [ "$which" = all ]; then
    for each in weight-drop small-embedding nt-asgd embedding-dropout weight-decay ar-tar variable-bptt nothing; do
        ablation "$each" "$@"
    done
else
    ablation "$which" "$@"
fi
