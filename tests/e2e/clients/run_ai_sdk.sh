#!/bin/sh
# Runs run_ai_sdk.mjs beside the packages in $CLIENT: Node looks for them from where a module is.
set -eu
ln -s "$CLIENT/node_modules" node_modules
cp "$SCRIPTS/run_ai_sdk.mjs" .
exec node run_ai_sdk.mjs
