// The playground: a chat with a model, token by token, with the cost of each answer, and the same as code.
import { field, input, logInAgain, money, onSubmit, pause, read, select, Refused } from "./account.js";
import { copy, make } from "./elements.js";
import { t } from "./texts.js";

const LONGEST = 100_000;
const BILL_TRIES = 20;
// What was said stays while other views are shown, and is gone with the page.
const turns = [];
// What was chosen and typed stays, too.
const kept = { model: "", most: "256", text: "" };

export async function playground(draw, live) {
  const { data: models } = await read("/v1/models", () => live.is);
  const model = models.length ? select("model", models.map(({ id }) => [id, id])) : input("model", { dir: "ltr", required: true, maxlength: "300" });
  model.dir = "ltr"; // its beginning is seen where it has no room
  if (kept.model && (!models.length || models.some(({ id }) => id === kept.model))) model.value = kept.model;
  const most = input("most", { type: "number", dir: "ltr", min: "1", max: "100000", value: kept.most, required: true });
  const text = make("textarea", { id: "prompt", dir: "auto", required: true, maxlength: String(LONGEST), rows: "3" });
  text.value = kept.text;
  const chat = make("div", { class: "chat", role: "log", "aria-label": t("Conversation"), "data-empty": t("Ask the model something. The answer appears here token by token, with what it cost.") }, ...turns.map(shown));
  const problem = make("p", { class: "wrong", role: "alert", hidden: true });
  const stop = make("button", { type: "button", hidden: true }, t("Stop"));
  const clear = make("button", { type: "button", id: "anew" }, t("Start anew"));
  const form = make("form", { class: "stack" }, field(t("Your message"), text), problem, make("div", { class: "buttons" }, make("button", { class: "primary" }, t("Send")), stop, clear));
  const code = make("pre", { class: "sample", dir: "ltr", tabindex: "0", role: "group", "aria-label": t("Code") });
  const language = select("code-language", [["curl", "curl"], ["python", "Python"], ["javascript", "JavaScript"]]);
  const copyCode = make("button", { type: "button" }, t("Copy"));
  let abort;

  const asked = () => ({ model: model.value, messages: turns.filter((turn) => turn.text).map(({ role, text: content }) => ({ role, content })), max_tokens: Number(most.value) });
  const showCode = () => (code.textContent = samples[language.value](asked().messages.length ? asked() : { ...asked(), messages: [{ role: "user", content: text.value || "Hello" }] }));
  for (const each of [model, most, language, text]) each.addEventListener("input", showCode);
  const keep = () => Object.assign(kept, { model: model.value, most: most.value, text: text.value });
  for (const each of [model, most, text]) each.addEventListener("input", keep);
  copyCode.addEventListener("click", () => copy(code.textContent, copyCode, t("Copied"), t("Could not copy")));
  stop.addEventListener("click", () => abort?.abort());
  clear.addEventListener("click", () => {
    abort?.abort();
    turns.length = 0;
    chat.replaceChildren();
    showCode();
    text.focus();
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });

  onSubmit(form, problem, async () => {
    const question = { role: "user", text: text.value };
    const answer = { role: "assistant", text: "" };
    turns.push(question);
    const body = { ...asked(), stream: true };
    turns.push(answer);
    abort = new AbortController();
    const sent = send(body, abort.signal); // before the page changes, which takes the browser as long as a token
    const place = shown(answer);
    chat.append(shown(question), place);
    const said = place.querySelector("p");
    stop.hidden = false;
    try {
      await answerOf(await sent, (piece) => {
        answer.text += piece;
        said.append(piece);
      }, (jobId) => {
        answer.jobId = jobId;
        text.value = "";
        keep();
      });
    } catch (error) {
      if (!answer.text) {
        turns.splice(turns.indexOf(question), 2);
        text.value = question.text; // nothing that was typed is lost
        keep();
        place.previousSibling?.remove();
        place.remove();
      }
      if (error.name !== "AbortError") throw error;
    } finally {
      stop.hidden = true;
      showCode();
    }
    if (answer.jobId) await showBill(answer, place, live);
    text.focus();
  });

  showCode();
  draw(
    make("h1", {}, t("Playground")),
    models.length ? "" : make("p", { class: "notice" }, t("No model is served at the moment. A message waits in the queue until one is.")),
    make("div", { class: "pair" }, make("section", { class: "card" }, make("div", { class: "row lead-first" }, field(t("Model"), model), field(t("Tokens at most"), most)), chat, form), make("section", { class: "card sticky" }, make("h2", {}, t("As code")), field(t("Language"), language), make("p", { class: "hint" }, t("It reads a key from {variable}.", { variable: "DCP_RENTER_KEY" })), code, copyCode)),
  );
}

function shown(turn) {
  const said = make("p", { dir: "auto" }, turn.text);
  return make("div", { class: `turn ${turn.role}` }, make("span", { class: "unseen" }, turn.role === "user" ? t("You:") : t("The model:")), said, make("p", { class: "bill" }, ...(turn.bill ? [t("Cost:"), " ", money(turn.bill)] : [])));
}

/** Sends a chat. If the log-in has ended, it asks for a new one first and sends again. */
async function send(body, signal) {
  for (;;) {
    const response = await fetch("/v1/chat/completions", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal }).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Refused(t("The server cannot be reached. Check the connection and try again."));
    });
    if (response.status !== 401) return response;
    await logInAgain("renter");
  }
}

/** Passes on the text of an answer as it comes, and the id of its job. */
async function answerOf(response, write, begin) {
  if (!response.ok) {
    const { error } = await response.json().catch(() => ({}));
    throw new Refused(error?.message ?? t("The server answered {status}.", { status: response.status }), error?.reason ?? "");
  }
  begin(response.headers.get("x-request-id"));
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Refused(t("The answer broke off. Send the message again."));
    });
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Refused(event.error.message, event.error.reason);
      write(event.choices?.[0]?.delta?.content ?? "");
    }
  }
}

/** The bill is written when the job has ended, which can be a moment after its last token. */
async function showBill(answer, place, live) {
  for (let tries = 0; tries < BILL_TRIES && live.is; tries += 1) {
    const { job } = await read(`/jobs/${encodeURIComponent(answer.jobId)}`, () => live.is);
    if (["completed", "failed", "cancelled"].includes(job.status)) {
      answer.bill = Number(job.billing?.actual_cost_micro_halala ?? 0);
      const link = make("a", { href: `#job/${encodeURIComponent(answer.jobId)}` }, t("Job"));
      place.querySelector(".bill").replaceChildren(t("Cost:"), " ", money(answer.bill), " · ", link);
      return;
    }
    await pause(0.3);
  }
}

const quoted = (body) => JSON.stringify(body, null, 2);
const samples = {
  curl: (body) => `curl -sS \\\n  ${location.origin}/v1/chat/completions \\\n  -H "Authorization: Bearer $DCP_RENTER_KEY" \\\n  -H 'content-type: application/json' \\\n  -d '${quoted(body).replaceAll("'", "'\\''")}'`,
  python: (body) => `import os\n\nfrom openai import OpenAI\n\nclient = OpenAI(base_url="${location.origin}/v1", api_key=os.environ["DCP_RENTER_KEY"])\nanswer = client.chat.completions.create(\n    model=${JSON.stringify(body.model)},\n    max_tokens=${body.max_tokens},\n    messages=${quoted(body.messages).replaceAll("\n", "\n    ")},\n)\nprint(answer.choices[0].message.content)`,
  javascript: (body) => `const answer = await fetch("${location.origin}/v1/chat/completions", {\n  method: "POST",\n  headers: {\n    authorization: \`Bearer \${process.env.DCP_RENTER_KEY}\`,\n    "content-type": "application/json",\n  },\n  body: JSON.stringify(${quoted(body).replaceAll("\n", "\n  ")}),\n});\nconsole.log((await answer.json()).choices[0].message.content);`,
};

