// Uploads of inputs: piece by piece, so that one goes on where it broke off. They run on while other views are shown.
import { api, keepTrying, Refused } from "./account.js";
import { sha256 } from "./sha256.js";
import { t } from "./texts.js";

const PIECE_BYTES = 4 << 20;

/** The uploads of this page, newest first. Each has `file`, `state`, `done` (bytes) and, when it failed, `problem`. */
export const uploads = [];
const changes = new EventTarget();

/** Calls `work` after each change of an upload, until the view is left. */
export function whenChanged(live, work) {
  changes.addEventListener("change", work);
  live.whenLeft.push(() => changes.removeEventListener("change", work));
}

/** Uploads a file; what the account has is not sent again. */
export function upload(file) {
  const one = { file, state: "reading", done: 0, abort: new AbortController() };
  uploads.unshift(one);
  run(one);
}

export function again(one) {
  Object.assign(one, { state: "reading", done: 0, problem: "", abort: new AbortController() });
  run(one);
}

export function stop(one) {
  one.abort.abort();
}

function change(one, values) {
  Object.assign(one, values);
  changes.dispatchEvent(new Event("change"));
}

async function run(one) {
  const { signal } = one.abort;
  try {
    one.sha256 ??= await sha256(one.file, (done) => change(one, { done }), signal);
    change(one, { state: "sending", done: 0 });
    const input = await keepTrying(() => send(one, signal));
    change(one, { state: "ready", done: one.file.size, input });
  } catch (error) {
    if (error.name === "AbortError") change(one, { state: "stopped", problem: "" });
    else if (error instanceof Refused) change(one, { state: "failed", problem: error.message });
    else change(one, { state: "failed", problem: t("The file cannot be read. Choose it again.") });
  }
}

/** Announces the file, which says from where to go on, and sends the rest of it. */
async function send(one, signal) {
  const { file } = one;
  signal.throwIfAborted();
  let { input } = await api("POST", "/inputs", { name: file.name, size_bytes: file.size, sha256: one.sha256 });
  while (input.status !== "ready") {
    signal.throwIfAborted();
    const first = input.received_bytes;
    change(one, { done: first });
    const piece = file.slice(first, first + PIECE_BYTES);
    const headers = piece.size ? { "content-range": `bytes ${first}-${first + piece.size - 1}/${file.size}` } : {};
    ({ input } = await api("PUT", `/inputs/${encodeURIComponent(input.input_id)}`, piece, { headers }));
    if (input.status !== "ready" && input.received_bytes <= first) throw new Refused(t("The server did not keep what was sent. Try again."), "INPUT_NOT_WAITING");
  }
  return input;
}
