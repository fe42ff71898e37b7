// The renter's inputs: files that jobs read at /input. Uploads with their progress, what is kept, and the room for it.
import { api, card, field, inPages, input as field_, onSubmit, problemPlace, read, table, time, title } from "./account.js";
import { make } from "./elements.js";
import { bar, bytes, sureButton } from "./renter-parts.js";
import { again, stop, upload, uploads, whenChanged } from "./uploads.js";
import { number, t } from "./texts.js";

export async function files(draw, live) {
  const problem = problemPlace();
  const room = make("div");
  const running = make("div");
  const list = make("div");
  const chooser = make("input", { type: "file", id: "files", multiple: true });
  chooser.addEventListener("change", () => {
    for (const file of chooser.files) upload(file);
    chooser.value = "";
    showUploads();
  });

  async function showKept() {
    const [{ renter }, kept] = await Promise.all([
      read("/renters/me", () => live.is),
      inPages(
        async (before) => {
          const answer = await read(`/inputs?page_size=100${before ? `&before_id=${before}` : ""}`, () => live.is);
          return { items: answer.inputs, next: answer.next_before_id };
        },
        (found) => table(t("Files"), [t("Name"), t("Size"), t("State"), t("Uploaded"), t("Kept until, if no job uses it"), t("Actions")], found.map((each) => [make("bdi", {}, each.name), bytes(each.size_bytes), state(each), time(each.created_at), time(each.expires_at), remove(each)]), t("No files. Upload data here, and name it in a job that runs in a container.")),
      ),
    ]);
    const most = renter.stored_bytes_limit;
    room.replaceChildren(most ? bar(t("Kept for you, with the files and texts of jobs"), renter.stored_bytes, most, [bytes(renter.stored_bytes), " / ", bytes(most)]) : make("p", {}, t("Kept for you, with the files and texts of jobs"), " ", bytes(renter.stored_bytes)));
    list.replaceChildren(kept);
  }

  function state(each) {
    if (each.status === "ready") return make("span", { class: "badge completed" }, t("ready"));
    if (each.problem) return make("span", { class: "badge failed" }, each.problem);
    return make("span", { class: "badge queued" }, t("{percent} arrived", { percent: number(each.size_bytes ? each.received_bytes / each.size_bytes : 0, { style: "percent" }) }));
  }

  const remove = (each) => sureButton(t("Delete"), t("Really delete?"), problem, async () => {
    await api("POST", `/inputs/${encodeURIComponent(each.input_id)}/delete`, {});
    await showKept();
  }, { class: "small danger", "aria-label": t("Delete {name}", { name: each.name }) });

  let ready = uploads.filter((one) => one.state === "ready").length;
  function showUploads() {
    running.replaceChildren(...(uploads.length ? [make("ul", { class: "uploads" }, ...uploads.map(shownUpload))] : []));
    const now = uploads.filter((one) => one.state === "ready").length;
    if (now !== ready) showKept().catch(() => {});
    ready = now;
  }

  whenChanged(live, showUploads);
  showUploads();
  draw(
    title(t("Files")),
    card(t("Upload data for jobs"), make("div", { class: "field" }, make("label", { for: "files" }, t("Files")), chooser, make("p", { class: "hint" }, t("An upload that breaks off goes on by itself. After this page was closed, choose the same file again: it goes on from where it was."))), running),
    problem,
    make("section", { class: "card" }, list),
    make("section", { class: "card" }, room),
    fetchForm(showKept),
  );
  await showKept();
}

function shownUpload(one) {
  const names = { reading: t("is being read"), sending: t("is being sent"), ready: t("ready"), stopped: t("stopped"), failed: t("failed") };
  const isRunning = ["reading", "sending"].includes(one.state);
  const meter = make("progress", { max: String(one.file.size || 1), value: String(one.state === "ready" ? one.file.size || 1 : one.done), "aria-label": one.file.name });
  const button = make("button", { type: "button", class: "small", "aria-label": `${isRunning ? t("Stop") : t("Go on")}: ${one.file.name}` }, isRunning ? t("Stop") : t("Go on"));
  button.addEventListener("click", () => (isRunning ? stop(one) : again(one)));
  return make("li", {}, make("p", {}, make("bdi", {}, one.file.name), make("span", { class: "words" }, names[one.state], " · ", bytes(one.done), " / ", bytes(one.file.size))), meter, one.problem ? make("p", { class: "wrong", role: "alert" }, one.problem) : "", one.state === "ready" ? "" : button);
}

/** The market fetches a file from an address by itself. */
function fetchForm(done) {
  const name = field_("fetch-name", { required: true, maxlength: "255" });
  const url = field_("fetch-url", { type: "url", dir: "ltr", required: true, maxlength: "2000", placeholder: "https://", spellcheck: "false" });
  const size = field_("fetch-size", { type: "number", dir: "ltr", required: true, min: "0", step: "1" });
  const sum = field_("fetch-sha256", { dir: "ltr", required: true, pattern: "[0-9a-fA-F]{64}", maxlength: "64", spellcheck: "false" });
  const problem = problemPlace();
  const form = make("form", { class: "stack" }, field(t("Name"), name), field(t("Address"), url), make("div", { class: "row" }, field(t("Size in bytes"), size), field("SHA-256", sum)), problem, make("button", {}, t("Fetch it")));
  onSubmit(form, problem, async () => {
    await api("POST", "/inputs", { name: name.value.trim(), url: url.value.trim(), size_bytes: Number(size.value), sha256: sum.value.toLowerCase() });
    form.reset();
    await done();
  });
  return make("details", { class: "card" }, make("summary", {}, t("Let the market fetch a file from an address")), form);
}
