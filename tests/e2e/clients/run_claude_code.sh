#!/bin/sh
# Drives Claude Code: it runs a command with its Bash tool and answers. Settings: see parts.py.
set -eu
export ANTHROPIC_BASE_URL="$BASE_URL" ANTHROPIC_AUTH_TOKEN="$API_KEY" ANTHROPIC_MODEL="$MODEL" \
  ANTHROPIC_SMALL_FAST_MODEL="$MODEL" ANTHROPIC_DEFAULT_HAIKU_MODEL="$MODEL" \
  ANTHROPIC_DEFAULT_SONNET_MODEL="$MODEL" ANTHROPIC_DEFAULT_OPUS_MODEL="$MODEL" \
  CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1 DISABLE_TELEMETRY=1 \
  DISABLE_ERROR_REPORTING=1 CLAUDE_CODE_MAX_RETRIES=2
mkdir -p project
cd project
for part in $PARTS; do
  case $part in
    two_tools) tools="Bash,Read" ;;
    all_tools) tools=default ;;
  esac
  "$CLIENT/node_modules/.bin/claude" \
    -p "Run the shell command 'echo tool-ran' with your Bash tool, then say what the weather is." \
    --tools "$tools" --allowedTools 'Bash(echo:*),Read' --output-format json --max-turns 4 \
    </dev/null > ../answer.json || { cat ../answer.json; exit 1; }
  cat ../answer.json
  python3 - ../answer.json <<'P'
import json, os, sys

answer = json.load(open(sys.argv[1], encoding="utf-8"))
answer = answer[-1] if isinstance(answer, list) else answer
assert answer["subtype"] == "success", answer
assert not answer["is_error"], answer
assert os.environ["EXPECT"] in answer["result"], answer
P
done
