#!/bin/sh
# Drives lm-eval's local-chat-completions with 20 cases of a task of its own. Settings: see parts.py.
set -eu
mkdir tasks
i=0
while [ $i -lt 20 ]; do
  echo "{\"question\": \"What is $i + $i?\", \"answer\": \"$((i + i))\"}"
  i=$((i + 1))
done > cases.jsonl
cat > tasks/sums.yaml <<Y
task: market_sums
dataset_path: json
dataset_kwargs: {data_files: {test: "$PWD/cases.jsonl"}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}} Answer with the number only."
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\n\n"], max_gen_toks: 32, do_sample: false, temperature: 0.0}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
Y
export HF_HOME="$HOME/hf" HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1
for part in $PARTS; do # how many it asks at once
  at_once=${part#at_once_}
  to="model=$MODEL,base_url=$BASE_URL/v1/chat/completions,num_concurrent=$at_once,max_retries=3"
  OPENAI_API_KEY="$API_KEY" "$CLIENT/bin/lm_eval" run --model local-chat-completions \
    --model_args "$to,tokenized_requests=False,timeout=120" --include_path tasks --tasks market_sums \
    --apply_chat_template --log_samples --output_path "out-$part"
  "$CLIENT/bin/python" - "$part" <<'P'
import glob, json, os, sys

[samples] = glob.glob(f"out-{sys.argv[1]}/**/samples_*.jsonl", recursive=True)
answers = [json.loads(line)["resps"][0][0] for line in open(samples, encoding="utf-8")]
print(f"{sys.argv[1]}: {len(answers)} answers, the last: {answers[-1]}")
sys.exit(len(answers) != 20 or not all(text and os.environ["EXPECT"] in text for text in answers))
P
done
