// A JSON parser that records the position of each value in the text, which JSON.parse does not.
// A problem is {text, values, start, end}; `text` is a key of the translations.

import { mark } from "./texts.js";

class Wrong extends Error {
  constructor(text, values, start, end) {
    super(text);
    Object.assign(this, { text, values, start, end: Math.max(end, start + 1) });
  }
}

const MAX_DEPTH = 100;

/** {value, spans, problems}: spans maps a path such as "params.messages[0]" to [start, end]. */
export function parse(source) {
  const spans = new Map();
  const problems = [];
  let at = 0;

  const fail = (text, values = {}, start = at, end = start + 1) => {
    throw new Wrong(text, values, Math.min(start, source.length), end);
  };
  const space = () => {
    while (at < source.length && " \t\n\r".includes(source[at])) at += 1;
  };
  const expect = (sign, text) => {
    space();
    if (source[at] !== sign) fail(at < source.length ? text : mark("The JSON ends too early; {sign} is missing."), { sign });
    at += 1;
  };

  function string() {
    const start = at;
    at += 1;
    while (at < source.length && source[at] !== '"') {
      if (source[at] < " ") fail(mark("A text contains a line break: close it with a quote, or write \\n."), {}, start, at);
      at += source[at] === "\\" ? 2 : 1;
    }
    if (at >= source.length) fail(mark("This text is not closed with a quote."), {}, start, source.length);
    at += 1;
    try {
      return JSON.parse(source.slice(start, at));
    } catch {
      return fail(mark("This text has an escape that JSON does not know."), {}, start, at);
    }
  }

  function object(path, depth) {
    const result = {};
    at += 1;
    space();
    if (source[at] === "}") return (at += 1), result;
    for (;;) {
      space();
      const start = at;
      if (source[at] !== '"') fail(mark("Expected a field name in double quotes."));
      const name = string();
      const inner = path ? `${path}.${name}` : name;
      if (Object.hasOwn(result, name)) {
        problems.push({ path: inner, text: mark("This field occurs twice."), values: {}, start, end: at });
      }
      expect(":", mark("Expected {sign} after the field name."));
      Object.defineProperty(result, name, { value: value(inner, depth), enumerable: true, configurable: true, writable: true });
      spans.set(`${inner}:name`, [start, start + JSON.stringify(name).length]);
      space();
      if (source[at] === ",") {
        at += 1;
        continue;
      }
      expect("}", mark("Expected , or {sign} here."));
      return result;
    }
  }

  function array(path, depth) {
    const result = [];
    at += 1;
    space();
    if (source[at] === "]") return (at += 1), result;
    for (;;) {
      result.push(value(`${path}[${result.length}]`, depth));
      space();
      if (source[at] === ",") {
        at += 1;
        continue;
      }
      expect("]", mark("Expected , or {sign} here."));
      return result;
    }
  }

  function plain() {
    const [word] = /^[^\s,:{}[\]"]*/.exec(source.slice(at, at + 400));
    const start = at;
    if (!/^(true|false|null|-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?)$/.test(word)) {
      if (at >= source.length) fail(mark("The JSON ends too early; a value is missing."));
      fail(mark("This is not a JSON value: a text needs double quotes."), {}, start, start + word.length);
    }
    at += word.length;
    return JSON.parse(word);
  }

  function value(path, depth = 0) {
    space();
    if (depth > MAX_DEPTH) fail(mark("This is nested too deeply."));
    const start = at;
    let result;
    if (source[at] === "{") result = object(path, depth + 1);
    else if (source[at] === "[") result = array(path, depth + 1);
    else if (source[at] === '"') result = string();
    else result = plain();
    spans.set(path, [start, at]);
    return result;
  }

  try {
    const result = value("");
    space();
    if (at < source.length) fail(mark("There is text after the end of the JSON."), {}, at, source.length);
    return { value: result, spans, problems };
  } catch (error) {
    if (!(error instanceof Wrong)) throw error;
    const { text, values, start, end } = error;
    return { value: undefined, spans, problems: [...problems, { path: "", text, values, start, end }] };
  }
}
