// Time series as SVG: lines or stacked columns with their axes, a reading under the pointer or by the arrow keys, and the same
// figures as a table. Colours are in charts.css. It knows no account and no money: the caller says how a value reads.
import { make } from "./elements.js";
import { number, t } from "./texts.js";

const HEIGHT = 200;
const TOP = 12;
const FOOT = 26;
const DAY_MINUTES = 1440;
const TICK_MINUTES = [1, 5, 10, 15, 20, 30, 60, 120, 180, 240, 360, 720, ...[1, 2, 3, 7, 14, 28, 91, 182].map((days) => days * DAY_MINUTES)];
const TICK_ROOM = 66; // px of the width for each time on the axis
const STYLES = 6; // of lines and columns in charts.css
const isMirrored = document.documentElement.dir === "rtl";

/** A chart of evenly spaced periods. `element` is for the page; `show` draws the first and all later figures. */
export class Chart {
  #title;
  #options;
  #data = { times: [], step: 1, series: [] };
  #width = 0;
  #at = null; // the period that is read
  #svg = svg("svg", { class: "drawing", height: HEIGHT, "aria-hidden": "true" });
  #reader = make("input", { type: "range", min: "0", step: "1", "aria-label": "" });
  #reading = make("div", { class: "reading", "aria-hidden": "true", hidden: true });
  #plot = make("div", { class: "plot" }, this.#svg, this.#reader, this.#reading);
  #empty = make("p", { class: "empty", hidden: true });
  #legend = make("ul", { class: "legend" });
  #table = make("div", { class: "figures-table", tabindex: "0", role: "region" });
  #details = make("details", {}, make("summary", {}, t("As a table")), this.#table);

  /** `say(value)` is how a value reads, with its unit; `bars` stacks columns; with `days` each time is midnight UTC of a day;
   * `most` is the least upper end of the value axis; `empty` is said while there is no value. */
  constructor(title, { say = number, bars = false, days = false, most = 0, empty = t("No figures in this time.") } = {}) {
    this.#title = title;
    this.#options = { say: (value) => `\u2068${say(value)}\u2069`, bars, days, most };
    this.#empty.append(empty);
    this.#reader.setAttribute("aria-label", t("Read the chart: {title}", { title }));
    this.#table.setAttribute("aria-label", title);
    this.element = make("figure", { class: "graph" }, make("figcaption", {}, make("span", {}, title), this.#legend), this.#plot, this.#empty, this.#details);
    new ResizeObserver(([{ contentRect }]) => this.#draw(contentRect.width)).observe(this.#plot);
    this.#plot.addEventListener("pointermove", (event) => this.#readAt(this.#periodUnder(event)));
    this.#plot.addEventListener("pointerdown", (event) => {
      this.#readAt(this.#periodUnder(event));
      this.#reader.focus({ preventScroll: true });
      event.preventDefault();
    });
    this.#plot.addEventListener("pointerleave", ({ pointerType }) => pointerType === "mouse" && this.#readAt(null)); // a finger leaves to let read
    this.#reader.addEventListener("input", () => this.#readAt(Number(this.#reader.value)));
    this.#reader.addEventListener("focus", () => this.#readAt(Number(this.#reader.value)));
    this.#reader.addEventListener("blur", () => this.#readAt(null));
    this.#reader.addEventListener("keydown", ({ key }) => key === "Escape" && this.#readAt(null));
    this.#details.addEventListener("toggle", () => this.#tabulate());
  }

  /** Draws the values of each series, one for each time (in ms, evenly spaced, oldest first); null is a gap. */
  show(times, series) {
    this.#data = { times, series, step: times[1] - times[0] || DAY_MINUTES * 60_000 };
    const isEmpty = !series.some(({ values }) => values.some((value) => value !== null && (value || !this.#options.bars)));
    this.#plot.hidden = this.#details.hidden = isEmpty;
    this.#empty.hidden = !isEmpty;
    this.#legend.hidden = isEmpty || series.length < 2;
    this.#legend.replaceChildren(...series.map(({ name }, i) => make("li", {}, swatch(i), make("bdi", {}, name))));
    this.#reader.max = String(times.length - 1);
    if (this.#at === null || this.#at >= times.length) this.#reader.value = this.#reader.max;
    this.#draw(this.#width);
    this.#tabulate();
    if (this.#at !== null) this.#readAt(Math.min(this.#at, times.length - 1));
    else this.#say(times.length - 1);
  }

  // --- drawing ---

  #slot = 0; // the width of a period
  #start = 0; // where the first begins

  #draw(width) {
    const { times, series, step } = this.#data;
    this.#width = width;
    if (!width || !times.length || this.#plot.hidden) return;
    const marks = this.#valueMarks();
    const top = marks.at(-1);
    const low = HEIGHT - FOOT;
    const y = (value) => low - ((value - marks[0]) / (top - marks[0] || 1)) * (low - TOP);
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const labels = marks.map((value) => svg("text", { class: "mark", "text-anchor": "end", y: y(value) + 4 }, this.#options.say(value)));
    this.#svg.replaceChildren(...labels);
    this.#start = Math.ceil(Math.max(0, ...labels.map((label) => label.getComputedTextLength()))) + 10;
    this.#slot = (width - this.#start) / times.length;
    for (const label of labels) label.setAttribute("x", this.#mirror(this.#start - 8));
    const grid = marks.map((value) => svg("line", { class: value ? "grid" : "base", x1: this.#mirror(this.#start), x2: this.#mirror(width), y1: y(value), y2: y(value) }));
    this.#svg.append(...grid, ...this.#timeMarks(step), ...(this.#options.bars ? this.#columns(series, y) : this.#lines(series, y)), svg("line", { class: "hair", y1: TOP, y2: low, visibility: "hidden" }));
  }

  /** Where a distance from the beginning of the line lies: from the right in Arabic. */
  #mirror(x) {
    return isMirrored ? this.#width - x : x;
  }

  #middle(i) {
    return this.#mirror(this.#start + (i + 0.5) * this.#slot);
  }

  /** Round values from the lowest to the highest of the axis, which includes 0. */
  #valueMarks() {
    const { times, series } = this.#data;
    const { bars, most } = this.#options;
    const all = bars ? times.map((_, i) => series.reduce((sum, { values }) => sum + (values[i] ?? 0), 0)) : series.flatMap(({ values }) => values.filter((value) => value !== null));
    const high = Math.max(most, 0, ...all);
    const least = Math.min(0, ...all);
    if (high === least) return [0];
    const rough = (high - least) / 4;
    const power = 10 ** Math.floor(Math.log10(rough));
    const by = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999);
    const marks = [];
    for (let i = Math.floor(least / by); marks.length < 2 || marks.at(-1) < high * 0.9999; i += 1) marks.push(i * by);
    return marks;
  }

  /** Times on the axis, at round hours and days of the reader's clock. */
  #timeMarks(step) {
    const { times } = this.#data;
    const span = times.length * step;
    const room = Math.max(1, Math.floor((this.#width - this.#start) / TICK_ROOM));
    const minutes = TICK_MINUTES.find((each) => each * 60_000 >= step && span / (each * 60_000) <= room) ?? TICK_MINUTES.at(-1);
    const found = [];
    for (const at of this.#options.days ? times.filter((_, i) => i % (minutes / DAY_MINUTES) === 0) : roundTimes(times[0], times[0] + span, minutes)) {
      const x = this.#start + ((at - times[0]) / step + (this.#options.days ? 0.5 : 0)) * this.#slot;
      const isDay = this.#options.days || minutes >= DAY_MINUTES || (minutes >= 180 && new Date(at).getHours() === 0);
      const half = isDay ? 26 : 30;
      if (x < half || x > this.#width - half / 2) continue;
      const anchor = x > this.#width - half ? "end" : "middle";
      found.push(svg("text", { class: "mark", x: this.#mirror(anchor === "end" ? this.#width : x), y: HEIGHT - 6, "text-anchor": anchor }, isDay ? this.#day(at) : clock(at)));
    }
    return found;
  }

  #day(at) {
    return format(this.#options.days ? { month: "short", day: "numeric", timeZone: "UTC" } : { month: "short", day: "numeric" }, at);
  }

  #lines(series, y) {
    return series.flatMap(({ values }, i) => {
      const parts = pieces(values).map((piece) => piece.map((at) => `${this.#middle(at).toFixed(1)},${y(values[at]).toFixed(1)}`));
      // A value between two gaps has no line, so it gets a dot.
      const line = parts.filter((points) => points.length > 1).map((points) => `M${points.join("L")}`).join("");
      const dots = parts.filter((points) => points.length === 1).map(([point]) => `M${point}h0.01`).join("");
      return [...(line ? [svg("path", { class: `line s${i % STYLES}`, d: line })] : []), ...(dots ? [svg("path", { class: `dots s${i % STYLES}`, d: dots })] : [])];
    });
  }

  #columns(series, y) {
    const space = this.#slot > 6 ? Math.min(this.#slot * 0.3, 8) : this.#slot * 0.15;
    const width = this.#slot - space;
    const heights = this.#data.times.map(() => 0);
    return series.flatMap(({ values }, i) =>
      values.flatMap((value, at) => {
        if (!value) return [];
        const foot = y(heights[at]);
        heights[at] += value;
        const height = Math.max(foot - y(heights[at]), 1);
        return [svg("rect", { class: `column s${i % STYLES}`, x: this.#middle(at) - width / 2, width, y: foot - height, height, rx: Math.min(2, width / 4) })];
      }),
    );
  }

  // --- reading ---

  #periodUnder(event) {
    const box = this.#plot.getBoundingClientRect();
    const x = isMirrored ? box.right - event.clientX : event.clientX - box.left;
    return Math.min(this.#data.times.length - 1, Math.max(0, Math.floor((x - this.#start) / this.#slot)));
  }

  /** Shows the values of a period, or none. */
  #readAt(at) {
    this.#at = at;
    const hair = this.#svg.querySelector(".hair");
    this.#reading.hidden = at === null;
    hair?.setAttribute("visibility", at === null ? "hidden" : "visible");
    if (at === null) return;
    const x = this.#middle(at);
    hair?.setAttribute("x1", x);
    hair?.setAttribute("x2", x);
    this.#reader.value = String(at);
    this.#say(at);
    const { series, times } = this.#data;
    const shown = series.map((each, i) => [each, i]).filter(([{ values }]) => !this.#options.bars || values[at]);
    this.#reading.replaceChildren(
      make("p", {}, this.#when(times[at])),
      ...(shown.length ? shown : [[series[0], 0]]).map(([{ name, values }, i]) => make("p", {}, swatch(i), make("bdi", {}, name), make("b", {}, this.#value(values[at])))),
    );
    const isLate = x > this.#width / 2;
    this.#reading.style.left = isLate ? "auto" : `${x + 12}px`;
    this.#reading.style.right = isLate ? `${this.#width - x + 12}px` : "auto";
  }

  /** The same for a screen reader. */
  #say(at) {
    const { series, times } = this.#data;
    if (times.length) this.#reader.setAttribute("aria-valuetext", [this.#when(times[at]), ...series.map(({ name, values }) => `${name}: ${this.#value(values[at])}`)].join(t(", ")));
  }

  #value(value) {
    return value === null ? t("no figure") : this.#options.say(value);
  }

  #when(at) {
    return this.#options.days ? format({ dateStyle: "medium", timeZone: "UTC" }, at) : format({ dateStyle: "medium", timeStyle: "short" }, at);
  }

  /** The table is written when somebody opens it, newest first. */
  #tabulate() {
    if (!this.#details.open) return;
    const { series, times } = this.#data;
    const rows = times.map((at, i) => make("tr", {}, make("th", { scope: "row" }, this.#when(at)), ...series.map(({ values }) => make("td", {}, this.#value(values[i])))));
    const heads = [t("Time"), ...series.map(({ name }) => name)].map((head) => make("th", { scope: "col" }, make("bdi", {}, head)));
    this.#table.replaceChildren(make("table", {}, make("caption", { class: "unseen" }, this.#title), make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows.reverse())));
  }
}

/** The places of values in a row without a gap. */
function pieces(values) {
  const found = [];
  values.forEach((value, i) => {
    if (value === null) return;
    if (i && values[i - 1] !== null) found.at(-1).push(i);
    else found.push([i]);
  });
  return found;
}

/** The times in a span at which the reader's clock shows multiples of `minutes` since midnight, or every few midnights. */
function roundTimes(from, to, minutes) {
  const found = [];
  const first = new Date(from);
  const [year, month, day] = [first.getFullYear(), first.getMonth(), first.getDate()];
  const isMidnight = new Date(year, month, day).getTime() === from;
  for (let i = 0; ; i += 1) {
    const at = minutes < DAY_MINUTES ? new Date(year, month, day, 0, i * minutes) : new Date(year, month, day + (isMidnight ? 0 : 1) + (i * minutes) / DAY_MINUTES);
    if (at >= to) return found;
    if (at >= from) found.push(at.getTime());
  }
}

const format = (options, at) => new Intl.DateTimeFormat(`${document.documentElement.lang}-u-nu-latn`, options).format(new Date(at));
const clock = (at) => format({ hour: "numeric", minute: "2-digit" }, at);
const swatch = (i) => svg("svg", { class: "swatch", width: 16, height: 10, "aria-hidden": "true" }, svg("path", { class: `line s${i % STYLES}`, d: "M0 5H16" }));

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
