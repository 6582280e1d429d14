#!/usr/bin/env bash
# What is measured and trained on a GPU that is there for fifteen minutes; docs/gpu.md has the commands to paste.
#
#   bash results/gpu/run.sh OUT [PART…] [--seconds S] [--device cuda:0|cpu] [--quick]
#
# PARTs, in the order given (default: tests steps fast models):
#   tests    the essential CUDA tests, 60 s at most
#   steps    step times, also in several processes at once; 60 s at most. They decide how `fast` trains
#   fast     recipes/fast.sh: Penn Treebank to its test and cache, then dynamic evaluation and Monte Carlo dropout of that
#            model; WikiText-2 and a second seed beside it where the step times say that it pays, else WikiText-2 after it
#   ptb      recipes/ptb.sh, as far as the time goes; for the states of earlier machines see `carried`
#   models   the trained models, compressed, in pieces: four in every call, those that no call has brought yet;
#            after `rm $WORK/pieces/*` all of them once more
#   states   the same for what runs that have not finished continue from
#   carried  joins the pieces in data/pieces, of this call and of earlier ones, to the files that `ptb` continues from
#
# It ends within S seconds (default 530). A part that fails, or that its limit ends, costs no other one anything; one that
# has finished is not run again. What it starts in the background trains on after its end, for as long as the machine is
# there, and the next call follows it. Into OUT go, as they come, at most eight files of 15 MiB, 60 MiB in all:
# progress.log, step_times.json, results.tgz (logs and result files of all runs) and pieces. All else is in $WORK.
#
# It needs torch, numpy, tqdm and, for tests, pytest, and the corpora in data/. data/COMMIT names the commit where there
# is no git. --device cpu --quick tries all of it out at toy sizes.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
usage() { sed -n '4p' "${BASH_SOURCE[0]}" | cut -c3- >&2; exit 2; }

PYTHON=${PYTHON:-python3}
# Saving a state to memory takes the least time.
[ "$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 {print $4}')" -gt 16000000 ] 2>/dev/null && fast_disk=/dev/shm
WORK=${WORK:-${fast_disk:-/tmp}/awd-lstm-gpu}
out='' parts=() seconds=530 device=cuda quick='' models_take=25
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) seconds=${2:?}; shift ;;
        --device) device=${2:?}; shift ;;
        --quick) quick=1 LIMIT=${LIMIT:-600} ;;
        tests | steps | fast | ptb | models | states | carried) parts+=("$1") ;;
        -*) usage ;;
        *) [ -z "$out" ] || usage; out=$1 ;;
    esac
    shift
done
[[ -n $out && $seconds =~ ^[1-9][0-9]*$ ]] || usage
limit=${LIMIT:-60}             # seconds of tests, and of steps
[ ${#parts[@]} -gt 0 ] || parts=(tests steps fast models)
mkdir -p "$out" "$WORK/runs" "$WORK/logs" "$WORK/pieces"
export AWD_LSTM_COMMIT=${AWD_LSTM_COMMIT:-$(cat data/COMMIT 2>/dev/null)} PYTHONUNBUFFERED=1
ends=$((SECONDS + seconds)) failed=0
left() { echo $((ends - SECONDS)); }
say() { echo "$(date +%T) $*" | tee -a "$out/progress.log"; }

# within SECONDS COMMAND...: under a limit, and never past this call's end
within() {
    local most=$1 rest
    shift
    rest=$(left)
    [ "$rest" -lt "$most" ] && most=$rest
    [ "$most" -gt 5 ] || return 124
    timeout -s INT -k 5 "$most" "$@"
}

# collect: the logs and results of all runs so far
collect() {
    (cd "$WORK" && tar -czf results.tgz logs $(ls runs/*.jsonl runs/*.result.json 2>/dev/null)) 2>/dev/null
    cp "$WORK/results.tgz" "$out/.results" && mv "$out/.results" "$out/results.tgz"
    cp "$WORK/step_times.json" "$out/" 2>/dev/null
}

# part NAME: run its function, once; what has not finished is tried again by the next call
part() {
    [ -e "$WORK/done.$1" ] && { say "$1: finished before"; return; }
    [ "$(left)" -gt 10 ] || { say "$1: no time left"; failed=1; return; }
    local began=$SECONDS
    say "$1: begins, $(left) s left"
    if "run_$1"; then say "$1: finished in $((SECONDS - began)) s"
    else say "$1: NOT finished ($?), $((SECONDS - began)) s"; failed=1; fi
    collect
}
once() { touch "$WORK/done.$1"; }

run_tests() {
    local status=0 several=()
    [ -z "$quick" ] && "$PYTHON" -c 'import xdist' 2>/dev/null && several=(-n 4)
    within "$limit" "$PYTHON" -m pytest -v -m essential "${several[@]}" tests/ops/test_cuda.py \
        >"$WORK/logs/tests.log" 2>&1 || status=$?
    tail -n 3 "$WORK/logs/tests.log" | tee -a "$out/progress.log"
    [ $status -eq 0 ] && once tests
}

# The MPS daemon lets several processes share the GPU at the same moment, and not in turns.
start_mps() {
    [ "$device" != cpu ] && command -v nvidia-cuda-mps-control >/dev/null || return
    export CUDA_MPS_LOG_DIRECTORY="$WORK/mps"
    mkdir -p "$WORK/mps"
    CUDA_MPS_PIPE_DIRECTORY="$WORK/mps" timeout 10 nvidia-cuda-mps-control -d >>"$WORK/logs/mps.log" 2>&1
}

run_steps() {
    local status=0 mps=()
    start_mps && mps=(--mps "$WORK/mps")
    within "$limit" "$PYTHON" results/gpu/step_times.py --device "${device%%:*}" ${quick:+--quick --each 0.1} \
        --seconds $((limit - 8)) --training-seconds $(($(left) - limit + 120)) "${mps[@]}" \
        --json "$WORK/step_times.json" --plan "$WORK/plan" >"$WORK/logs/step_times.log" 2>&1 || status=$?
    cat "$WORK/logs/step_times.log" >>"$out/progress.log"
    [ $status -eq 0 ] && once steps
}

# background NAME COMMAND...: start or go on with a run that outlives this call
background() {
    local name=$1
    shift
    [ "$(cat "$WORK/$name.status" 2>/dev/null)" = 0 ] && return
    [ -e "$WORK/$name.pid" ] && kill -0 "$(cat "$WORK/$name.pid")" 2>/dev/null && return
    rm -f "$WORK/$name.status"
    setsid bash -c '"${@:2}"; echo $? >"$1"' - "$WORK/$name.status" "$@" >>"$WORK/logs/$name.log" 2>&1 &
    echo $! >"$WORK/$name.pid"
}

# follow SPARE NAMES...: until all have ended or only SPARE seconds are left -> whether all have finished well
follow() {
    local spare=$1 name status=0 waited=0
    shift
    for name; do
        while [ ! -e "$WORK/$name.status" ]; do
            [ "$(left)" -gt "$spare" ] || { say "$name: goes on, no time left to follow it"; return 124; }
            sleep 1
            waited=$((waited + 1))
            [ $((waited % 15)) -eq 0 ] && collect
        done
        [ "$(cat "$WORK/$name.status")" = 0 ] || status=1
        say "$name: ended with status $(cat "$WORK/$name.status"): $(tail -n 1 "$WORK/logs/$name.log")"
    done
    return $status
}

# fast CORPUS:SEED FLAGS...: the recipe, unless it has finished, and what else is asked of the first model
fast() {
    local corpus=${1%:*} seed=${1#*:} data=(--data data/penn --recipe ptb-fast) segment=5 samples=20 status=0
    local stem=$SAVE_DIR/$corpus-fast-$seed
    shift
    if [ ! -e "$stem.pointer.result.json" ]; then
        SEED=$seed recipes/fast.sh "$corpus" --device "$device" "$@" && [ -e "$stem.pointer.result.json" ] || return 1
    fi
    [ "$corpus:$seed" = ptb:141 ] || return 0
    [ -n "$SMOKE" ] && data=(--data demo) segment=70 samples=2
    data+=(--save "$stem.pt" --split test --device "$device")
    "$PYTHON" dynamiceval.py "${data[@]}" --bptt $segment --resume auto || status=1
    [ -e "$stem.evaluation.test.mc-$samples.result.json" ] ||
        "$PYTHON" evaluate.py "${data[@]}" --mc-samples $samples || status=1
    return $status
}
export -f fast
export PYTHON device SMOKE=$quick SAVE_DIR=$WORK/runs

run_fast() {
    local flags='' mps='' groups='ptb:141 , wt2:1882' group=() each status=0
    [ -e "$WORK/plan" ] && . "$WORK/plan"
    say "fast: $groups ${flags:-as by default}${mps:+, by MPS}"
    for each in $groups ,; do
        [ "$each" != , ] && { group+=("$each"); continue; }
        together "${group[@]}" || status=$?
        [ $status -eq 124 ] && break
        group=()
    done
    [ $status -eq 0 ] && once fast
    return $status
}

# together RUNS...: at the same time; those that fail are tried once more, without MPS
together() {
    local run names=() status=0
    for run; do names+=("fast-${run/:/-}"); done
    for run; do
        CUDA_MPS_PIPE_DIRECTORY=${mps:-/tmp/nvidia-mps} background "fast-${run/:/-}" bash -c 'fast "$@"' - "$run" $flags
    done
    follow $models_take "${names[@]}" || status=$?
    if [ $status -eq 1 ] && [ "$(left)" -gt 60 ]; then
        for run; do background "fast-${run/:/-}" bash -c 'fast "$@"' - "$run" $flags; done
        follow $models_take "${names[@]}"
        status=$?
    fi
    return $status
}

run_ptb() {
    local flags=''
    [ -e "$WORK/plan" ] && . "$WORK/plan"
    rm -f "$WORK/ptb.status"             # one that its minutes ended has ended well, and goes on now
    background ptb recipes/ptb.sh --device "$device" $flags --max-minutes "$((($(left) - 60) / 6))e-1"
    follow 10 ptb && { [ ! -e "$WORK/runs/ptb-141.finetuned.result.json" ] || once ptb; }
}

# bring FILES...: as many of their pieces as there is room for in OUT, and that no call has brought yet
bring() {
    local file piece cut total
    for file; do
        cut=$WORK/pieces/$(basename "$file")
        if [ ! "$cut.list" -nt "$file" ]; then
            rm -f "$cut".[0-9]*
            gzip -1 <"$file" | split -d -b 15M - "$cut." || return
            total=$(ls "$cut".[0-9]* | wc -l)
            for piece in "$cut".[0-9]*; do mv "$piece" "$piece-of-$(printf %02d "$total")" || return; done
            ls "$cut".*-of-* >"$cut.partial" && mv "$cut.partial" "$cut.list"
        fi
        while read -r piece; do
            [ -e "$piece" ] || continue
            if [ "$(find "$out" -name '*-of-*' | wc -l)" -ge 4 ] || [ "$(left)" -le 3 ]; then
                say "from $(basename "$piece") on: left for the next call"
                return 0
            fi
            mv "$piece" "$out/"
        done <"$cut.list"
        say "$(basename "$file"): all of it is out"
    done
}
run_models() {
    local files=() file
    for file in "$WORK"/runs/{ptb-fast-141,wt2-fast-1882,ptb-fast-142,ptb-141.finetuned}.pt; do
        [ -e "${file%.pt}.result.json" ] && files+=("$file")
    done
    [ ${#files[@]} -gt 0 ] && bring "${files[@]}"
}
run_states() {
    local files=() state run file
    for state in "$WORK"/runs/*.state.pt; do
        run=${state%.state.pt}
        [[ -e $state && $run != *.finetuned && -z $(ls "$run".*pointer.result.json 2>/dev/null) ]] || continue
        for file in "$state" "$run".pt "$run".finetuned{.state,}.pt; do
            [ -e "$file" ] && files+=("$file")
        done
    done
    [ ${#files[@]} -gt 0 ] && bring "${files[@]}"
}
run_carried() {
    mkdir -p "$WORK/carried"
    mv data/pieces/*-of-* "$WORK/carried/" 2>/dev/null
    local name pieces total
    for name in $(cd "$WORK/carried" && ls | sed 's/\.[0-9]*-of-[0-9]*$//' | sort -u); do
        pieces=("$WORK/carried/$name".*-of-*)
        total=$((10#${pieces[0]##*-of-}))
        if [ ${#pieces[@]} -lt $total ]; then
            say "$name: ${#pieces[@]} of $total pieces"
        elif cat "${pieces[@]}" | gzip -d >"$WORK/runs/$name.partial"; then        # its checksum tells damage
            mv "$WORK/runs/$name.partial" "$WORK/runs/$name" || return
            rm -f "${pieces[@]}"                                                   # never to be joined again
            say "$name: whole, in $WORK/runs"
        else
            say "$name: damaged"
        fi
    done
}

say "commit ${AWD_LSTM_COMMIT:-of this folder}, parts ${parts[*]}, $seconds s, working in $WORK"
within 20 nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader >"$WORK/logs/driver.log" 2>&1
for each in "${parts[@]}"; do part "$each"; done
collect
say "ends with $(left) s left; finished so far: $(cd "$WORK" && ls -d done.* 2>/dev/null | sed 's/done\.//' | paste -sd ' ')"
exit $failed
