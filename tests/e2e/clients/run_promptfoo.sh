#!/bin/sh
# Drives promptfoo's openai:chat with two cases at once. Settings: see parts.py.
set -eu
cat > promptfooconfig.yaml <<Y
prompts: ["What is the weather in {{city}}?"]
providers:
  - id: "openai:chat:$MODEL"
    config: {apiBaseUrl: "$BASE_URL/v1", apiKeyEnvar: API_KEY, max_tokens: 64, temperature: 0}
defaultTest: {assert: [{type: javascript, value: "output.length > 0 && output.includes(process.env.EXPECT)"}]}
tests: [{vars: {city: Riyadh}}, {vars: {city: Jeddah}}]
Y
export PROMPTFOO_CONFIG_DIR="$HOME/.promptfoo" PROMPTFOO_DISABLE_TELEMETRY=1 PROMPTFOO_DISABLE_UPDATE=1 \
  PROMPTFOO_DISABLE_REMOTE_GENERATION=1 PROMPTFOO_DISABLE_SHARING=1 PROMPTFOO_SELF_HOSTED=1
# It exits with a status of its own if a case fails.
"$CLIENT/node_modules/.bin/promptfoo" eval -c promptfooconfig.yaml --no-cache --no-table --no-progress-bar \
  --no-share --max-concurrency 2 -o out.json </dev/null
grep -q '"successes": 2' out.json
