#!/usr/bin/env bash
# Everything to be measured on a GPU, in the order of its worth, with a time limit for each part.
#
#   bash results/gpu/run.sh OUT [PART…] [--minutes M] [--device cuda:0|cpu] [--quick]
#
# PART: tests, measure, bench, epochs, ptb, wt2, or pieces N; without any: the first five. Figures are written to OUT
# as they come, in at most eight files. A part that is finished is not run again: call the same command until there is
# no time left. What parts leave on the machine between calls (models, states) is in $WORK (/tmp/awd-lstm-gpu).
#
# ptb and wt2 are recipes/ptb.sh and wt2.sh, started in a session of their own: they run on when this script returns
# after M minutes (default 9), and the next call follows them. `pieces N` puts the Nth 60 MiB of the best PTB model there
# is into OUT, in files of 15 MiB, for machines from which no larger files come back: cat PTB.pt.* > PTB.pt.
#
# It needs torch, numpy, tqdm and, for tests, pytest, and the corpora in data/. --device cpu --quick tries all of it
# out at toy sizes. COMMIT names the commit where there is no git.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
usage() { sed -n '4p' "${BASH_SOURCE[0]}" | cut -c3- >&2; exit 2; }

PYTHON=${PYTHON:-python3} WORK=${WORK:-/tmp/awd-lstm-gpu}
out='' parts=() minutes=9 device=cuda quick='' piece=1
while [ $# -gt 0 ]; do
    case $1 in
        --minutes) minutes=${2:?}; shift ;;
        --device) device=${2:?}; shift ;;
        --quick) quick=1 ;;
        tests | measure | bench | epochs | ptb | wt2) parts+=("$1") ;;
        pieces) parts+=("$1"); piece=${2:?}; shift ;;
        -*) usage ;;
        *) [ -z "$out" ] || usage; out=$1 ;;
    esac
    shift
done
[ -n "$out" ] || usage
[ ${#parts[@]} -gt 0 ] || parts=(tests measure bench epochs ptb)
mkdir -p "$out" "$WORK/runs"
ends=$((SECONDS + minutes * 60))
left() { echo $((ends - SECONDS)); }
say() { echo "$(date +%T) $*" | tee -a "$out/progress.log"; }

# within SECONDS COMMAND...: under a limit, and never past this call's end
within() {
    local limit=$1 rest
    shift
    rest=$(left)
    [ "$rest" -lt "$limit" ] && limit=$rest
    [ "$limit" -gt 5 ] || return 124
    timeout -k 5 "$limit" "$@"
}

# part NAME: run its function once; what it has not finished, for lack of time or by an error, is tried again next time
part() {
    [ -e "$WORK/done.$1" ] && { say "$1: finished before"; return; }
    [ "$(left)" -gt 10 ] || { say "$1: no time left"; return; }
    say "$1: begins, $(left) s left"
    if "run_$1"; then touch "$WORK/done.$1"; say "$1: finished"; else say "$1: NOT finished ($?)"; fi
}

small=(--emsize 16 --nhid 24 --nlayers 2)
sizes() { [ -n "$quick" ] && printf '%s\n' "${small[@]}"; }

run_tests() {
    within 240 "$PYTHON" -m pytest -q -m cuda tests/ops/test_cuda.py >"$out/tests.log" 2>&1
    local status=$?
    tail -n 3 "$out/tests.log"
    [ $status -eq 0 ] || { [ -n "$quick" ] && [ $status -eq 5 ]; }
}

run_measure() {
    within 120 "$PYTHON" results/gpu/measure_first.py --device "${device%%:*}" ${quick:+--quick} \
        --json "$out/measure_first.json" >>"$out/progress.log" 2>&1
}

# measured NAME COMMAND...: one line of JSON of what the command writes with --json; not again if it is there
measured() {
    local name=$1 status=0
    shift
    grep -qs "\"name\": \"$name\"" "$WORK/bench.jsonl" && return
    within 90 "$PYTHON" bench.py "$@" --device "$device" $(sizes) --json "$WORK/bench.json" \
        >>"$out/progress.log" 2>&1 || status=$?
    [ $status -eq 0 ] && python3 - "$name" "$WORK/bench.json" >>"$WORK/bench.jsonl" <<'END'
import json, sys
print(json.dumps({"name": sys.argv[1], **json.load(open(sys.argv[2]))}))
END
    cp "$WORK/bench.jsonl" "$out/bench.jsonl" 2>/dev/null
    return $status
}

run_bench() {
    local runs=40 failed=0 against="--against plain"
    [ -n "$quick" ] && runs=2
    [ -n "${WITHOUT_NUMBERS:-}" ] && against=''
    for precision in tf32 bf16 fp32; do
        [ "$device" = cpu ] && [ $precision = tf32 ] && continue
        for graphs in --graphs --no-graphs; do
            measured "ptb $precision $graphs" --batch-size 20 $against --runs $runs --precision $precision $graphs ||
                failed=1
        done
    done
    local precision=tf32
    [ "$device" = cpu ] && precision=fp32
    measured "wt2 $precision" --batch-size 80 --words 33278 --window 3785 $against --runs $runs \
        --precision $precision || failed=1
    measured "qrnn $precision" --batch-size 20 --model QRNN --nhid 1550 --nlayers 4 --wdrop 0.1 --runs $runs \
        --precision $precision || failed=1
    measured "ptb with collectives" --batch-size 20 --runs $runs --precision $precision --process-group || failed=1
    return $failed
}

run_epochs() {
    local failed=0 name data=data/penn epochs=6
    [ -n "$quick" ] && data=demo epochs=2
    for flags in "--precision tf32" "--precision bf16" "--precision fp32" "--precision tf32 --no-graphs"; do
        [ "$device" = cpu ] && [[ $flags = *tf32* ]] && continue
        name=$(echo "$flags" | tr -d ' -')
        [ -e "$WORK/epochs/$name.result.json" ] && continue
        mkdir -p "$WORK/epochs"
        within 120 "$PYTHON" main.py --batch-size 20 --data $data --dropouti 0.4 --dropouth 0.25 --seed 141 \
            --epochs $epochs $flags --device "$device" $(sizes) --save "$WORK/epochs/$name.pt" --resume auto \
            >>"$out/progress.log" 2>&1 || failed=1
        cat "$WORK"/epochs/*.jsonl >"$out/epochs.jsonl" 2>/dev/null
    done
    return $failed
}

# recipe NAME: start or go on with recipes/NAME.sh, and follow it until it ends or the time is up
recipe() {
    local process="$WORK/$1.pid"
    if ! { [ -e "$process" ] && kill -0 "$(cat "$process")" 2>/dev/null; }; then
        rm -f "$WORK/$1.status"
        SAVE_DIR="$WORK/runs" SMOKE=$quick PYTHON=$PYTHON setsid nohup \
            bash -c 'recipes/"$0".sh --device "$1"; echo $? >"$2"' "$1" "$device" "$WORK/$1.status" >>"$WORK/$1.log" 2>&1 &
        echo $! >"$process"
    fi
    while [ "$(left)" -gt 15 ] && [ ! -e "$WORK/$1.status" ]; do sleep 2; done
    tail -n 200 "$WORK/$1.log" >"$out/$1.log"
    tar -czf "$out/runs.tgz" -C "$WORK/runs" $(cd "$WORK/runs" && ls -- *.jsonl *.result.json 2>/dev/null) 2>/dev/null
    [ "$(cat "$WORK/$1.status" 2>/dev/null)" = 0 ]
}
run_ptb() { recipe ptb; }
run_wt2() { recipe wt2; }

run_pieces() {
    local model
    model=$(ls "$WORK"/runs/ptb-*.finetuned.pt "$WORK"/runs/ptb-[0-9]*.pt 2>/dev/null | grep -v state | head -n 1)
    [ -n "$model" ] || { say "there is no PTB model yet"; return 1; }
    split -b 15m -d "$model" "$WORK/piece."
    for i in 0 1 2 3; do
        local file
        file=$(printf '%s/piece.%02d' "$WORK" $((4 * (piece - 1) + i)))
        [ -e "$file" ] && cp "$file" "$out/PTB.pt.${file##*.}"
    done
    rm -f "$WORK/done.pieces" "$WORK"/piece.*
    return 0
}

"$PYTHON" results/gpu/machine.py >"$out/machine.json" 2>>"$out/progress.log" || say "no machine.json"
for each in "${parts[@]}"; do
    part "$each"
    [ "$each" = pieces ] && rm -f "$WORK/done.pieces"
done
say "finished so far: $(cd "$WORK" && echo done.* | tr -d '*' | sed 's/done\.//g')"
