#!/usr/bin/env bash
# ablations.sh ptb|wt2 WHICH: the paper's model without one of its ingredients (its table 4). See common.sh.
# WHICH: fine-tuning, nt-asgd, variable-bptt, embedding-dropout, weight-decay, ar-tar, small-embedding, weight-drop, or
# all, in the order in which they matter. Without fine-tuning it is the first step of ptb.sh or wt2.sh; without NT-ASGD,
# the learning rate is halved where averaging would start, and nothing is averaged in fine-tuning either.
. "$(dirname "$0")/common.sh"
usage="usage: ablations.sh ptb|wt2 WHICH [flags of main.py and finetune.py] (WHICH is explained in this file)"
corpus=${1:-} which=${2:-}
[ $# -gt 1 ] && shift 2
case $corpus in
    ptb) data_folder=data/penn published_seed=141
         flags=(--batch-size 20 --dropouti 0.4 --dropouth 0.25 --epochs 500) ;;
    wt2) data_folder=data/wikitext-2 published_seed=1882
         flags=(--dropouth 0.2 --epochs 750) ;;
    *) echo "$usage" >&2; exit 2 ;;
esac

# without NAME FLAGS...: train and fine-tune with these flags
without() {
    local left_out=$1
    shift
    recipe "$corpus-without-$left_out" "$data_folder" "$published_seed"
    train "${flags[@]}" "$@"
    finetune "${flags[@]}" "$@"
}

ablation() {
    local which=$1
    shift
    case $which in
        fine-tuning)       recipe "$corpus" "$data_folder" "$published_seed"
                           train "${flags[@]}" "$@" ;;
        nt-asgd)           recipe "$corpus-without-nt-asgd" "$data_folder" "$published_seed"
                           train "${flags[@]}" --on-stall halve "$@" ;;
        variable-bptt)     without variable-bptt --no-variable-bptt "$@" ;;
        embedding-dropout) without embedding-dropout --dropoute 0 "$@" ;;
        weight-decay)      without weight-decay --wdecay 0 "$@" ;;
        ar-tar)            without ar-tar --alpha 0 --beta 0 "$@" ;;
        small-embedding)   without small-embedding --emsize 1150 --no-tied "$@" ;;
        weight-drop)       without weight-drop --wdrop 0 "$@" ;;
        *) echo "$usage" >&2; exit 2 ;;
    esac
}

if [ "$which" = all ]; then
    for each in weight-drop small-embedding nt-asgd embedding-dropout weight-decay ar-tar variable-bptt fine-tuning; do
        ablation "$each" "$@"
    done
else
    ablation "$which" "$@"
fi
