#!/bin/sh
# Drives llm (Simon Willison's): streamed, whole, with a tool, with a schema. Settings: see parts.py.
set -eu
export LLM_USER_PATH="$PWD/llm" OPENAI_API_KEY=unused
mkdir "$LLM_USER_PATH"
cat > "$LLM_USER_PATH/extra-openai-models.yaml" <<Y
- model_id: market
  model_name: "$MODEL"
  api_base: "$BASE_URL/v1"
  api_key_name: market
  supports_tools: true
  supports_schema: true
Y
llm() { "$CLIENT/bin/llm" "$@" </dev/null; }
llm keys set market --value "$API_KEY"
question='What is the weather in Riyadh?'
for part in $PARTS; do
  case $part in
    stream) text=$(llm -m market -s 'Answer in one sentence.' "$question") ;;
    whole) text=$(llm -m market --no-stream "$question") ;;
    tools)
      text=$(llm -m market --functions 'def get_weather(city: str) -> str:
    """The weather of a city."""
    return "sunny"' "$question")
      llm logs list -n 1 --json | grep -q get_weather ;;
    schema)
      found=$(llm -m market --schema 'city: its name' "$question")
      echo "$part: $found"
      echo "$found" | "$CLIENT/bin/python" -c 'import json, sys; assert json.load(sys.stdin)["city"]'
      continue ;;
  esac
  echo "$part: $text"
  [ -n "$text" ]
  case $text in *"$EXPECT"*) ;; *) exit 1 ;; esac
done
