#!/bin/sh
# Build pipeline/assets/web from tools/web, byte for byte the same wherever it runs; `--check` builds
# aside and compares. For developers: needs Python's venv and npm, which fetch the compiler (zig's
# clang) and esbuild in pinned versions. The result is part of the repository.
set -eu
cd "$(dirname "$0")/web"
zig=0.15.2 esbuild=0.25.10
tools="${FASTGHA_WEB_TOOLS:-$(pwd)/.tools}"
kept=../../pipeline/assets/web
out=$kept
[ "${1:-}" = --check ] && out=$(mktemp -d)
[ -d "$tools/python" ] || { python3 -m venv "$tools/python"; "$tools/python/bin/pip" install -q "ziglang==$zig"; }
[ -d "$tools/node_modules" ] || npm install --silent --no-audit --no-fund --prefix "$tools" "esbuild@$esbuild"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp ./*.js raster.c "$work"
cp worker.js "$work/worker.js.txt"
( cd "$work"
  "$tools/python/bin/python" -m ziglang cc -target wasm32-freestanding \
    -mcpu=generic+simd128+bulk_memory+nontrapping_fptoint -O3 -nostdlib -Wall -Wextra -Werror \
    -Wl,--no-entry -Wl,--strip-all -o raster.wasm raster.c
  for name in element:fastgha-avatar page:page; do
    "$tools/node_modules/.bin/esbuild" "${name%%:*}.js" --bundle --minify --format=iife \
      --target=es2022 --loader:.wasm=binary --loader:.txt=text --charset=utf8 \
      --log-level=warning --outfile="out/${name##*:}.js"
  done )
mkdir -p "$out"
cp "$work"/out/*.js index.html README.md LICENSES.txt "$out"
cat ./*.js ./*.c ./*.html ./*.md LICENSES.txt ../build_web.sh | sha256sum | cut -d' ' -f1 > "$out/sources.sha256"
if [ "$out" != "$kept" ]; then
  diff -r "$out" "$kept" && echo "pipeline/assets/web is what tools/web makes."
  rm -rf "$out"
fi
