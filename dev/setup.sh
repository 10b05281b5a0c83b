#!/bin/sh
# Installs what building, training and testing need, and only what is missing. Safe to run again: when everything is there
# it changes nothing and needs no network. What is there is asked of the Makefile, whose probes compile, link and run a line
# of C: so this script and the build cannot disagree.
set -eu
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
usage: dev/setup.sh [--oracle] [--view] [--peer] [--help]
  Installs a C compiler, make, pkg-config, OpenBLAS (the variant with OpenMP), Check, g++, clang, curl and wget, where missing.
  Debian and Ubuntu: with apt-get, as root or through sudo. Fedora, Arch, macOS: prints the line to run.
  --oracle  also python3 with torch, numpy, matplotlib and Pillow, for dev/dynmoe.py, the plots and dev/images.py
  --view    also python3, chromium and its driver, for make test-view
  --peer    only this: the newest PyTorch, into the folder out_peer_venv, for dev/bench_peer.sh (half a gigabyte to download)
  --help    this text
END
}

fail() { # message, hint
    echo "dev/setup.sh: $1" >&2
    echo "---> HINT: $2" >&2
    exit 1
}

oracle=no view=no peer=no
for arg in "$@"; do
    case $arg in
        --oracle) oracle=yes ;;
        --view) view=yes ;;
        --peer) peer=yes ;;
        --help|-h) usage; exit 0 ;;
        *) usage >&2; fail "unknown option: $arg" "dev/setup.sh without options is what most people need" ;;
    esac
done

# PyTorch's package for Linux is built for CUDA and wants gigabytes of its libraries, of which a run on the CPU calls nothing:
# empty ones do, with the names that are missing. Where that does not work, all that pip asks for is installed.
peer_works() { "$venv/bin/python" -c 'import torch, numpy' 2> /dev/null; }
peer_stand_ins() {
    libs=$(echo "$venv"/lib/python3*/site-packages/torch/lib)
    missing=$(for f in "$libs"/*.so; do ldd "$f" 2> /dev/null; done | sed -n 's/^[ \t]*\(lib[^ ]*\) => not found.*/\1/p' | sort -u)
    for lib in $missing; do echo "" | "${CC:-cc}" -shared -fPIC -x c - -o "$libs/$lib"; done
    for f in "$libs"/libtorch_*.so; do ldd -r "$f" 2> /dev/null; done |
        sed -n 's/^undefined symbol: \([A-Za-z][A-Za-z0-9_]*\)[^A-Za-z0-9_].*/\1/p' | grep -v '^Py' | sort -u |
        sed 's/.*/char &[4096];/' > "$libs/stand_ins.c"
    for lib in $missing; do "${CC:-cc}" -shared -fPIC "$libs/stand_ins.c" -Wl,-soname,"$lib" -o "$libs/$lib"; done
}
peer_install() {
    venv=out_peer_venv
    if peer_works; then echo "dev/setup.sh: the newest PyTorch is there already: $venv/bin/python"; exit 0; fi
    python3 -m venv "$venv" || fail "python3 makes no venv" "Debian: apt-get install python3-venv"
    for what in "--no-deps torch" "-U filelock typing-extensions sympy networkx jinja2 fsspec setuptools numpy"; do
        # shellcheck disable=SC2086 # several words
        "$venv/bin/pip" install -q $what || fail "pip could not install torch" "the lines above say why; it needs a network"
    done
    peer_works || peer_stand_ins || true
    if ! peer_works; then
        echo "dev/setup.sh: PyTorch without CUDA's libraries does not start here; installing them (gigabytes)"
        "$venv/bin/pip" install -q --force-reinstall torch || fail "pip could not install torch" "its last lines above say why"
    fi
    peer_works || fail "torch is installed, but cannot be imported" "$venv/bin/python -c 'import torch' says why"
    echo "dev/setup.sh: $venv/bin/python has torch $("$venv/bin/python" -c 'import torch; print(torch.__version__)')." \
        "Next: make bench-peer"
}
if [ $peer = yes ]; then peer_install; exit 0; fi

compiler_works() {
    dir=$(mktemp -d) || return 1
    result=0
    { echo 'int main(void) { return 0; }' > "$dir/a.c" && "${CC:-cc}" "$dir/a.c" -o "$dir/a"; } > /dev/null 2>&1 || result=1
    rm -rf "$dir"
    return $result
}

# Sets there (for people), missing (names that package_of knows) and variant (yes: OpenBLAS is there, but not the best one).
look() {
    there='' missing='' variant=no probes=''
    if compiler_works; then there="C compiler"; else missing="compiler"; fi
    if command -v make > /dev/null; then there="$there, make"; else missing="$missing make"; fi
    if command -v pkg-config > /dev/null; then there="$there, pkg-config"; else missing="$missing pkg-config"; fi
    for tool in g++ clang++ curl wget; do # for the CUDA source on the CPU, its check mode, downloads and their tests
        if command -v $tool > /dev/null; then there="$there, $tool"; else missing="$missing $tool"; fi
    done
    case $missing in
        *compiler*|*make*) # nothing can be tried, so the package manager is asked for all of it; it skips what it has
            missing="$missing openblas check" ;;
        *)
            probes=$(make -s probes) || fail "make probes failed" "run it by itself to see why; is BLAS= set in the environment?"
            if found "BLAS .*OpenMP"; then there="$there, OpenBLAS (OpenMP)"
            elif found "BLAS"; then there="$there, a BLAS"; if [ "$system" = apt ]; then variant=yes; fi
            else missing="$missing openblas"; fi
            if found "Check"; then there="$there, Check"; else missing="$missing check"; fi ;;
    esac
    if [ $oracle = yes ]; then
        if found "torch"; then there="$there, torch"; else missing="$missing torch"; fi
    fi
    if [ $view = yes ]; then
        for tool in python3 chromium chromedriver; do
            if command -v $tool > /dev/null; then there="$there, $tool"; else missing="$missing $tool"; fi
        done
    fi
    there=${there#, } missing=${missing# }
}

found() { printf '%s\n' "$probes" | grep -q "^ *found *$1"; }

package_of() {
    case $system-$1 in
        apt-compiler) echo gcc libc6-dev ;;
        apt-clang++|dnf-clang++|pacman-clang++) echo clang ;;
        apt-curl) echo curl ca-certificates ;;
        dnf-g++) echo gcc-c++ ;;
        pacman-g++|brew-g++) echo gcc ;;
        brew-clang++) echo llvm ;;
        apt-openblas) echo libopenblas-openmp-dev ;;
        apt-chromedriver) echo chromium-driver ;;
        apt-torch) echo python3-torch python3-numpy python3-matplotlib python3-pil ;;
        dnf-compiler|pacman-compiler) echo gcc ;;
        dnf-pkg-config) echo pkgconf-pkg-config ;;
        dnf-openblas) echo openblas-devel ;;
        dnf-check) echo check-devel ;;
        dnf-torch) echo python3-torch python3-numpy python3-matplotlib python3-pillow ;;
        pacman-pkg-config|brew-pkg-config) echo pkgconf ;;
        pacman-chromedriver) echo chromium ;;
        pacman-python3) echo python ;;
        pacman-openblas) echo openblas blas-openblas ;;
        pacman-torch) echo python-pytorch python-numpy python-matplotlib python-pillow ;;
        brew-compiler) echo gcc ;;
        brew-openblas) echo openblas libomp ;;
        brew-torch) echo pytorch numpy python-matplotlib pillow ;;
        *) echo "$1" ;;
    esac
}

system=unknown
for tool in apt-get:apt dnf:dnf pacman:pacman brew:brew; do
    if command -v "${tool%:*}" > /dev/null; then system=${tool#*:}; break; fi
done

look
if [ -z "$missing" ] && [ $variant = no ]; then
    echo "dev/setup.sh: everything is there: $there. Next: make train"
    exit 0
fi

packages=''
for name in $missing; do packages="$packages $(package_of "$name" | tr '\n' ' ')"; done
if [ $variant = yes ]; then packages="$packages libopenblas-openmp-dev"; fi
packages=$(echo "$packages" | tr -s ' ' | sed 's/^ //; s/ $//')
echo "already there: ${there:-nothing yet}"
echo "to install:    $packages"

case $system in
    apt) ;;
    dnf) fail "something is missing" "run: sudo dnf install $packages" ;;
    pacman) fail "something is missing" "run: sudo pacman -S --needed $packages" ;;
    brew) fail "something is missing" "run: brew install $packages" ;;
    *) fail "something is missing, and none of apt-get, dnf, pacman, brew is here" \
        "install by hand a C compiler, make, pkg-config, OpenBLAS with cblas.h, and Check; then: make probes" ;;
esac

# Without a terminal sudo must not wait for a password that nobody can type.
sudo=''
if [ "$(id -u)" -ne 0 ]; then
    sudo='sudo -n'
    if [ -t 0 ]; then sudo='sudo'; fi
    if ! command -v sudo > /dev/null || ! $sudo true; then
        if [ -z "$missing" ]; then
            echo "dev/setup.sh: not root, so the OpenMP variant of OpenBLAS is left out; the other one works. Next: make train"
            exit 0
        fi
        fail "installing needs root, and sudo does not give it" "let an administrator run: apt-get install $packages"
    fi
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { # every apt-get waits for another one to finish, asks nothing, and is silent unless it fails
    echo "apt-get $*"
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -qq "$@" < /dev/null > "$log" 2>&1 && return 0
    tail -n 6 "$log" >&2
    return 1
}
# An update that fails in part (one dead extra source) may still be enough: the install decides.
apt update || echo "dev/setup.sh: apt-get update failed; trying to install with the lists that are there" >&2
# shellcheck disable=SC2086
apt install --yes --no-install-recommends $packages \
    || fail "apt-get could not install: $packages" "its last lines above say why; without a network it cannot"

look
if [ -n "$missing" ]; then
    fail "installed, but still not usable: $missing" "make probes shows what was tried; CC=${CC:-cc}"
fi
echo "dev/setup.sh: everything is there now: $there. Next: make train"
