#!/usr/bin/env bash
# Build lsb's two images on a base whose digest is asked for now, push them, and print what they are called by digest:
#
#     deployments/release.sh REPOSITORY VERSION > images
#
# TORCH_INDEX_CPU and TORCH_INDEX_CUDA name indexes of torch's wheels; empty takes pip's own choice, which is CUDA's.
# The lines that are printed go into .env (compose.yaml), and the references behind = into `images` of a kustomization.
# Nothing is printed unless every digest was given by a registry.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repository=${1:?a repository for the images, such as example.test/lsb} version=${2:?a version}

digest() {
    local found
    found=$(docker buildx imagetools inspect "$1" --format '{{.Manifest.Digest}}')
    [[ $found =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "no digest of $1: $found" >&2; exit 1; }
    echo "$found"
}

build() {
    docker buildx build --file deployments/Dockerfile --build-arg "BASE=$base" --build-arg "TORCH_INDEX=$2" \
        --provenance=true --sbom=true --tag "$repository:$version-$1" --push . >&2
}

base=$(sed -n 's/^ARG BASE=//p' deployments/Dockerfile)
base="$base@$(digest "$base")"
postgres=$(sed -n 's/.*POSTGRES_IMAGE:-\([^}]*\)}.*/\1/p' deployments/compose.yaml)
store=$(sed -n 's/.*STORE_IMAGE:-\([^}]*\)}.*/\1/p' deployments/compose.yaml)
postgres="$postgres@$(digest "$postgres")"
store="$store@$(digest "$store")"
build cpu "${TORCH_INDEX_CPU:-}"
build cuda "${TORCH_INDEX_CUDA:-}"
cpu="$repository:$version-cpu@$(digest "$repository:$version-cpu")"
cuda="$repository:$version-cuda@$(digest "$repository:$version-cuda")"

cat <<IMAGES
BASE_IMAGE=$base
LSB_IMAGE=$cpu
LSB_CUDA_IMAGE=$cuda
POSTGRES_IMAGE=$postgres
STORE_IMAGE=$store
IMAGES
