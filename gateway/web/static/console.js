// The form for trying out endpoints of the OpenAPI document. It sends requests to this page's own origin.
import { byId, copy, make } from "./elements.js";
import { parse } from "./json.js";
import { check, resolved } from "./schema.js";
import { mark, number, t } from "./texts.js";

const BASE = "/api/dc1";
const TIMEOUT_SECONDS = 60;
const SHOWN_CHARACTERS = 200_000;
const ROLES = {
  provider: { header: "x-provider-key", variable: "DCP_PROVIDER_KEY", label: mark("Provider key"), prefix: "dcp-provider-" },
  renter: { header: "x-renter-key", variable: "DCP_RENTER_KEY", label: mark("Renter key"), prefix: "dcp-renter-" },
  admin: { header: "x-admin-token", variable: "DCP_ADMIN_TOKEN", label: mark("Admin token") },
};

/** Starts the form; returns what chooses an endpoint by the id of its article. */
export async function startConsole() {
  const language = document.documentElement.lang;
  let api;
  try {
    const answer = await fetch(`/docs/form.json?lang=${language}`);
    if (!answer.ok) throw new Error(String(answer.status));
    api = await answer.json();
  } catch {
    byId("status").textContent = t("The form could not be loaded. Reload the page to try again.");
    return () => {};
  }
  byId("request").hidden = false; // before the first endpoint is chosen: a hidden editor has no height to measure
  const console = new Console(api);
  return (id) => console.choose(id);
}

class Console {
  constructor(api) {
    this.schemas = api.components.schemas;
    this.paths = api.paths;
    this.remembered = {}; // ids from responses by field name: the next form starts with them
    this.drafts = new Map();
    this.form = byId("request");
    this.body = byId("body");
    byId("endpoint").addEventListener("change", (event) => {
      history.replaceState(null, "", `#${event.target.value}`);
      this.choose(event.target.value);
    });
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.body.addEventListener("input", () => this.checkBody());
    byId("reset").addEventListener("click", () => {
      this.body.value = this.startingBody();
      this.checkBody();
    });
    byId("stop").addEventListener("click", () => this.abort?.abort("stopped"));
    byId("copy-curl").addEventListener("click", (event) => copy(this.curl(), event.target, t("Copied"), t("Could not copy")));
    byId("as").addEventListener("change", () => this.showCredential());
    this.startKeys();
    this.choose(byId("endpoint").value);
  }

  // --- keys: kept only in the tab's own storage ---

  startKeys() {
    for (const input of document.querySelectorAll("#keys input")) {
      input.value = readTab(input.id);
      input.addEventListener("input", () => {
        keepInTab(input.id, input.value);
        this.showCredential();
      });
    }
    for (const button of document.querySelectorAll("#keys .show")) {
      button.addEventListener("click", () => {
        const input = button.parentElement.querySelector("input");
        const shown = input.type === "password";
        input.type = shown ? "text" : "password";
        button.textContent = shown ? t("Hide") : t("Show");
        button.setAttribute("aria-pressed", String(shown));
      });
    }
  }

  key(role) {
    return byId(`key-${role}`).value.trim();
  }

  setKey(role, key) {
    const input = byId(`key-${role}`);
    input.value = key;
    keepInTab(input.id, key);
    byId("keys").open = true;
    this.showCredential();
  }

  // --- the form of an endpoint ---

  choose(id) {
    if (this.slug && this.operation.requestBody) this.drafts.set(this.slug, this.body.value);
    const select = byId("endpoint");
    select.value = id;
    const { method, path } = select.selectedOptions[0].dataset;
    this.slug = id;
    this.method = method;
    this.path = path;
    this.operation = this.paths[path][method.toLowerCase()];
    this.roles = this.operation["x-roles"].filter((role) => role in ROLES);
    byId("note").textContent = this.operation.summary;
    this.showRoles();
    byId("parameters").replaceChildren(...this.operation.parameters.map((parameter) => this.parameterField(parameter)));
    const content = this.operation.requestBody?.content["application/json"];
    byId("body-field").hidden = !content;
    if (content) this.body.value = this.drafts.get(id) ?? this.startingBody();
    this.checkBody();
  }

  showRoles() {
    const usable = this.roles.find((role) => this.key(role)) ?? this.roles[0];
    byId("as").replaceChildren(...this.roles.map((role) => make("option", { value: role, selected: role === usable }, t(ROLES[role].label))));
    byId("as-field").hidden = this.roles.length < 2;
    this.showCredential();
  }

  get role() {
    return byId("as").value;
  }

  showCredential() {
    const names = this.roles.map((role) => t(ROLES[role].label));
    const missing = this.roles.length && !this.key(this.role);
    byId("auth").textContent = names.length ? names.join(` ${t("or")} `) : t("None");
    if (missing) byId("auth").textContent += ` (${t("enter it under Keys")})`;
    const set = Object.keys(ROLES).filter((role) => this.key(role));
    byId("keys-set").textContent = set.length ? set.map((role) => `${t(ROLES[role].label)} ✓`).join(", ") : t("none yet");
    if (missing) byId("keys").open = true;
  }

  parameterField(parameter) {
    const id = `parameter-${parameter.name}`;
    const schema = resolved(parameter.schema, this.schemas);
    const value = parameter.in === "path" ? (this.remembered[parameter.name] ?? "") : "";
    const input = schema.enum
      ? make("select", {}, make("option", { value: "" }), ...schema.enum.map((name) => make("option", {}, name)))
      : make("input", { dir: "ltr", autocomplete: "off", spellcheck: "false", inputmode: KEYBOARDS[schema.type] });
    Object.assign(input, { id, value });
    input.dataset.name = parameter.name;
    input.setAttribute("aria-describedby", `${id}-meaning ${id}-wrong`);
    if (parameter.required) input.required = true;
    input.addEventListener("input", () => showWrong(input, this.parameterProblem(parameter, input.value)));
    const label = make("label", { for: id }, make("code", { dir: "ltr" }, parameter.name), parameter.required ? "" : ` (${t("optional")})`);
    const meaning = make("p", { class: "hint", id: `${id}-meaning` }, parameter.description);
    return make("div", { class: "field" }, label, input, make("p", { class: "wrong", id: `${id}-wrong`, hidden: true }), meaning);
  }

  parameterProblem(parameter, text) {
    if (!text) return parameter.required ? t("This field is required.") : "";
    const schema = resolved(parameter.schema, this.schemas);
    let value = text;
    if (schema.type === "integer" || schema.type === "number") value = /^-?\d+(\.\d+)?$/.test(text) ? Number(text) : text;
    if (schema.type === "boolean") value = { true: true, false: false }[text] ?? text;
    const [first] = check(value, parameter.schema, this.schemas);
    return first ? t(first.text, first.values) : "";
  }

  parameters() {
    return this.operation.parameters.map((parameter) => {
      const input = byId(`parameter-${parameter.name}`);
      return { ...parameter, input, value: input.value.trim() };
    });
  }

  /** The example, with ids that answers gave; without the key, which goes in its header. */
  startingBody() {
    const content = this.operation.requestBody.content["application/json"];
    const example = { ...(content.example ?? {}) };
    if (this.roles.length) delete example.api_key;
    for (const name of Object.keys(example)) {
      if (name in this.remembered) example[name] = this.remembered[name];
    }
    return JSON.stringify(example, null, 2);
  }

  /** The body's problems, shown under it and marked in it. */
  checkBody() {
    const content = this.operation.requestBody?.content["application/json"];
    this.confirmed = false;
    byId("send").textContent = t("Send");
    if (!content) return [];
    const { value, spans, problems } = parse(this.body.value);
    if (value !== undefined) {
      for (const problem of check(value, content.schema, this.schemas)) {
        const [start, end] = spans.get(problem.name ? `${problem.path}:name` : problem.path);
        problems.push({ ...problem, start, end });
      }
    }
    this.showProblems(problems);
    return problems;
  }

  showProblems(problems) {
    this.body.setAttribute("aria-invalid", String(problems.length > 0));
    byId("problems").replaceChildren(
      ...problems.slice(0, 20).map(({ path, text, values, start, end }) => {
        const line = this.body.value.slice(0, start).split("\n").length;
        const place = path ? `${path}: ` : "";
        const button = make("button", { type: "button" }, `${t("Line {line}", { line })} · `, make("bdi", {}, place), t(text, values));
        button.addEventListener("click", () => {
          this.body.focus();
          this.body.setSelectionRange(start, end);
        });
        return make("li", {}, button);
      }),
    );
    this.mark(problems);
  }

  mark(problems) {
    const text = this.body.value;
    const parts = [];
    let at = 0;
    for (const { start, end } of [...problems].sort((a, b) => a.start - b.start)) {
      if (start < at || end - start > 400) continue; // it contains other problems, which are marked
      parts.push(text.slice(at, start), make("mark", {}, text.slice(start, end)));
      at = end;
    }
    byId("mirror").replaceChildren(...parts, text.slice(at), "\n");
    this.body.style.blockSize = "auto";
    this.body.style.blockSize = `${this.body.scrollHeight + 2}px`;
  }

  // --- sending ---

  /** Shows what is wrong; whether it may be sent all the same is asked once. */
  isReady() {
    let wrong = null;
    for (const { input, value, ...parameter } of this.parameters()) {
      const problem = this.parameterProblem(parameter, value);
      showWrong(input, problem);
      if (problem) wrong ??= input;
      if (problem && parameter.in === "path" && !value) return input.focus(), false; // without the value there is no address
    }
    const confirmed = this.confirmed;
    if (this.checkBody().length) wrong ??= document.querySelector("#problems button");
    if (!wrong || confirmed) return true;
    wrong.focus();
    this.confirmed = true;
    byId("send").textContent = t("Send anyway");
    return false;
  }

  address(base) {
    const query = new URLSearchParams();
    let path = this.path;
    for (const { name, in: place, value } of this.parameters()) {
      if (place === "path") path = path.replace(`{${name}}`, encodeURIComponent(value) || name.toUpperCase());
      if (place === "query" && value) query.append(name, value);
    }
    const text = String(query);
    return path.replace("/api", base) + (text ? `?${text}` : "");
  }

  headers(keyOf) {
    const headers = {};
    for (const { name, in: place, value } of this.parameters()) if (place === "header" && value) headers[name] = value;
    const key = this.roles.length ? keyOf(this.role) : "";
    if (key) headers[ROLES[this.role].header] = key;
    if (this.operation.requestBody) headers["content-type"] = "application/json";
    return headers;
  }

  curl() {
    const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
    const lines = [`curl -sS -X ${this.method} ${quoted(location.origin + this.address("/api"))}`];
    for (const [name, value] of Object.entries(this.headers((role) => `$${ROLES[role].variable}`))) {
      lines.push(`  -H ${value.startsWith("$DCP_") ? `"${name}: ${value}"` : quoted(`${name}: ${value}`)}`);
    }
    if (this.operation.requestBody) lines.push(`  -d ${quoted(this.body.value)}`);
    return lines.join(" \\\n");
  }

  async send() {
    if (this.abort || !this.isReady()) return;
    let headers;
    try {
      headers = new Headers(this.headers((role) => this.key(role)));
    } catch {
      this.explain(t("A key or header has characters that cannot be sent: copy it again."));
      return;
    }
    this.abort = new AbortController();
    const ticking = this.showWaiting();
    const timeout = setTimeout(() => this.abort.abort("timeout"), TIMEOUT_SECONDS * 1000);
    const started = performance.now();
    try {
      const options = { method: this.method, headers, signal: this.abort.signal, cache: "no-store", credentials: "omit" };
      if (this.operation.requestBody) options.body = this.body.value;
      const answer = await fetch(this.address(BASE), options);
      if (isStream(answer)) {
        clearTimeout(timeout);
        clearInterval(ticking);
        await this.follow(answer);
        return;
      }
      const blob = await answer.blob();
      await this.show(answer, blob, performance.now() - started);
    } catch {
      if (this.isFollowing) this.explain(this.abort.signal.aborted ? t("You stopped the stream.") : t("The stream broke off: send again with the id of the last event to continue."));
      else this.showFailure(this.abort.signal);
    } finally {
      this.isFollowing = false;
      clearTimeout(timeout);
      clearInterval(ticking);
      this.abort = null;
      byId("stop").hidden = true;
      byId("send").disabled = false;
      byId("response").removeAttribute("aria-busy");
    }
  }

  showWaiting() {
    byId("send").disabled = true;
    byId("stop").hidden = false;
    byId("response").setAttribute("aria-busy", "true");
    for (const id of ["explained", "take", "headers-field"]) byId(id).hidden = true;
    byId("payload").replaceChildren();
    const seconds = make("span", { "aria-hidden": "true" });
    byId("status").replaceChildren(make("span", { class: "spinner", "aria-hidden": "true" }), t("Waiting for the response…"), " ", seconds);
    const started = performance.now();
    return setInterval(() => (seconds.textContent = `${number((performance.now() - started) / 1000, { minimumFractionDigits: 1, maximumFractionDigits: 1 })} s`), 100);
  }

  showFailure(signal) {
    const texts = {
      stopped: t("You stopped waiting. The request may still take effect."),
      timeout: t("No response within {seconds} seconds. The request may have taken effect.", { seconds: TIMEOUT_SECONDS }),
    };
    byId("status").textContent = t("No response.");
    this.explain(
      texts[signal.aborted ? signal.reason : ""] ??
        t("Network failure: the marketplace could not be reached. Check your connection and whether the gateway runs, then send again."),
    );
    byId("response").focus({ preventScroll: true });
  }

  explain(text) {
    byId("explained").textContent = text;
    byId("explained").hidden = !text;
  }

  /** Shows a stream of events as they come, until it ends or is stopped. */
  async follow(answer) {
    this.isFollowing = true;
    byId("status").replaceChildren(make("span", { class: "status ok", dir: "ltr" }, `${answer.status} ${answer.statusText}`));
    byId("headers").textContent = [...answer.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    byId("headers-field").hidden = false;
    const payload = byId("payload");
    const texts = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let left = SHOWN_CHARACTERS; ; ) {
      const { value, done } = await texts.read();
      if (done) break;
      if (left > 0) payload.append(value.slice(0, left));
      if (left > 0 && value.length >= left) payload.append(`\n… ${t("The rest is not shown.")}`);
      left -= value.length;
    }
    byId("response").focus({ preventScroll: true });
  }

  async show(answer, blob, milliseconds) {
    const isFile = answer.ok && !blob.type.startsWith("text/csv") && /^attachment/.test(answer.headers.get("content-disposition") ?? "");
    const text = isFile || blob.type.startsWith("image/") ? "" : await blob.text();
    const badge = make("span", { class: answer.ok ? "status ok" : "status", dir: "ltr" }, `${answer.status} ${answer.statusText}`);
    const size = t("{bytes} bytes", { bytes: number(blob.size) });
    byId("status").replaceChildren(badge, ` · ${number(milliseconds, { maximumFractionDigits: 0 })} ms · ${size}`);
    byId("headers").textContent = [...answer.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    byId("headers-field").hidden = false;
    if (isFile) return this.offerFile(blob);
    if (blob.type.startsWith("image/")) return this.showImage(blob);
    let value;
    try {
      value = JSON.parse(text);
    } catch {
      // not JSON: shown unchanged
    }
    const pretty = value === undefined ? text : JSON.stringify(value, null, 2);
    byId("payload").textContent = pretty.slice(0, SHOWN_CHARACTERS) || t("(no body)");
    if (pretty.length > SHOWN_CHARACTERS) byId("payload").append(`\n… ${t("The rest is not shown.")}`);
    this.explain(this.meaning(answer, value));
    this.offerKey(value);
    this.remember(value);
    byId("response").focus({ preventScroll: true });
  }

  showImage(blob) {
    const address = URL.createObjectURL(blob);
    const image = make("img", { src: address, alt: t("The job's output") });
    image.addEventListener("load", () => URL.revokeObjectURL(address));
    byId("payload").replaceChildren(image);
  }

  offerFile(blob) {
    const name = (this.parameters().find(({ name }) => name === "name")?.value ?? "").split("/").at(-1);
    const link = make("a", { href: URL.createObjectURL(blob), download: name }, t("Save the file"));
    link.addEventListener("click", () => setTimeout(() => URL.revokeObjectURL(link.href), 60_000), { once: true });
    byId("payload").replaceChildren(link);
    byId("response").focus({ preventScroll: true });
  }

  /** What an answer means to the person before it; empty where it speaks for itself. */
  meaning({ status, headers }, value) {
    const label = this.roles.length ? t(ROLES[this.role].label) : "";
    if (status === 401 && label) {
      return this.key(this.role)
        ? t("Unauthorized (401): the {key} was refused. Check it under Keys.", { key: label })
        : t("Unauthorized (401): this endpoint needs a {key}. Enter it under Keys.", { key: label });
    }
    if (status === 429) {
      return t("Too many requests (429). Wait {seconds} s, then send again.", { seconds: headers.get("retry-after") ?? "1" });
    }
    if (status === 202) return t("Not ready yet (202): send again in a moment.");
    if (status >= 500) return t("The marketplace has a fault or is busy ({status}); your request is not the cause. Try again in a moment.", { status });
    return status >= 400 && value?.error ? value.error : "";
  }

  offerKey(value) {
    const key = typeof value?.api_key === "string" ? value.api_key : "";
    const role = Object.keys(ROLES).find((name) => ROLES[name].prefix && key.startsWith(ROLES[name].prefix));
    byId("take").hidden = !role;
    if (!role) return;
    const button = make("button", { type: "button", class: "primary" }, t("Use as {key}", { key: t(ROLES[role].label) }));
    button.addEventListener("click", () => {
      this.setKey(role, key);
      byId("take").replaceChildren(t("The key is saved for this tab. It is shown only once: keep a copy if you need it later."));
    });
    byId("take").replaceChildren(button);
  }

  remember(value) {
    for (const part of [value, value?.job, value?.provider, value?.renter]) {
      for (const [name, found] of Object.entries(part ?? {})) {
        if (name.endsWith("_id") && (typeof found === "string" || typeof found === "number")) this.remembered[name] = found;
      }
    }
  }
}

function isStream(answer) {
  return (answer.headers.get("content-type") ?? "").startsWith("text/event-stream");
}

const KEYBOARDS = { integer: "numeric", number: "decimal" };

function showWrong(input, problem) {
  const place = byId(`${input.id}-wrong`);
  place.textContent = problem;
  place.hidden = !problem;
  input.setAttribute("aria-invalid", String(Boolean(problem)));
}

function readTab(name) {
  try {
    return sessionStorage.getItem(name) ?? "";
  } catch {
    return "";
  }
}

function keepInTab(name, value) {
  try {
    sessionStorage.setItem(name, value);
  } catch {
    // storage is not available: the value lasts until the page is closed
  }
}
