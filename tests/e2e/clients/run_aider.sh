#!/bin/sh
# Drives aider: it answers a question about a small file, or edits it. Settings: see parts.py.
# Its table of prices and what it knows of the model are files here, so it asks no other host for them.
set -eu
mkdir -p "$HOME/.aider/caches"
echo '{}' > "$HOME/.aider/caches/model_prices_and_context_window.json"
cat > model.json <<J
{"openai/$MODEL": {"max_tokens": 1024, "max_input_tokens": 32768, "max_output_tokens": 1024, "mode": "chat",
  "litellm_provider": "openai", "input_cost_per_token": 0, "output_cost_per_token": 0}}
J
export OPENAI_API_BASE="$BASE_URL/v1" OPENAI_API_KEY="$API_KEY" LITELLM_LOCAL_MODEL_COST_MAP=True
for part in $PARTS; do
  echo 'print("hello")' > hello.py
  case $part in
    edit) options="--edit-format diff" ;;
    whole) options="--edit-format diff --no-stream" ;;
    ask) options="--chat-mode ask" ;;
  esac
  # It exits with 0 whatever the API says.
  "$CLIENT/bin/aider" --model "openai/$MODEL" --weak-model "openai/$MODEL" \
    --model-metadata-file model.json $options --message 'Make it print PONG-42.' --no-git --yes \
    --analytics-disable --no-check-update --no-show-release-notes --no-show-model-warnings --no-pretty \
    --no-fancy-input --no-auto-lint --no-suggest-shell-commands --no-detect-urls --map-tokens 0 hello.py \
    </dev/null > log 2>&1
  cat log
  if grep -qE 'litellm\.[A-Za-z]*Error|Traceback' log; then exit 1; fi
  grep -qF "${EXPECT:-Tokens:}" log
  [ "$part" = ask ] || grep -qF PONG-42 hello.py
done
