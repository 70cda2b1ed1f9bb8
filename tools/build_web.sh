#!/bin/sh
# Build pipeline/assets/web/viewer.js from tools/web: Spark and three.js with our page, in one file.
# For developers; needs npm. The result is part of the repository, so that installing needs no npm.
set -eu
cd "$(dirname "$0")/web"
npm install --silent --no-audit --no-fund
mkdir -p ../../pipeline/assets/web
npx esbuild viewer.js --bundle --minify --format=iife --legal-comments=eof --log-level=warning \
  --define:import.meta.url=location.href --outfile=../../pipeline/assets/web/viewer.js
{
  for package in three @sparkjsdev/spark; do
    echo "== $package"; cat "node_modules/$package/LICENSE"; echo
  done
} > ../../pipeline/assets/web/LICENSES.txt
rm -rf node_modules package-lock.json
