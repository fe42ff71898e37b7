#!/bin/sh
# Drives codex: it runs a command with its own tool and answers. Settings: see parts.py.
set -eu
export CODEX_HOME="$HOME/.codex"
mkdir -p "$CODEX_HOME" project
cat > "$CODEX_HOME/config.toml" <<T
model = "$MODEL"
model_provider = "market"
check_for_update_on_startup = false
web_search = "disabled"
[model_providers.market]
name = "market"
base_url = "$BASE_URL/v1"
env_key = "API_KEY"
wire_api = "responses"
request_max_retries = 1
stream_max_retries = 1
[features]
plugins = false
remote_plugin = false
plugin_sharing = false
apps = false
[analytics]
enabled = false
[feedback]
enabled = false
[otel]
exporter = "none"
metrics_exporter = "none"
T
cd project
"$CLIENT/node_modules/.bin/codex" exec --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox \
  --color never -o ../last "Run the shell command 'echo tool-ran', then say what the weather is." </dev/null
[ -s ../last ] && grep -qF "$EXPECT" ../last
