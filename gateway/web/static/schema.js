// Checks a value against the subset of JSON Schema that our OpenAPI document uses.
// A problem is {path, text, values, name}; `name` is true if the field's name is wrong, not its value.

import { mark } from "./texts.js";

/** The problems of a value, the first first. */
export function check(value, schema, schemas, path = "") {
  return [...problems(value, schema, schemas, path)];
}

/** What a schema says of a value that is not null; a reference is followed. */
export function resolved(schema, schemas) {
  const reference = (schema.anyOf?.[0] ?? schema).$ref;
  const found = reference ? schemas[reference.split("/").pop()] : schema;
  return Array.isArray(found.type) ? { ...found, type: found.type[0], enum: found.enum?.filter((value) => value !== null) } : found;
}

const KINDS = {
  object: (value) => typeof value === "object" && value !== null && !Array.isArray(value),
  array: Array.isArray,
  string: (value) => typeof value === "string",
  boolean: (value) => typeof value === "boolean",
  number: (value) => typeof value === "number",
  integer: (value) => Number.isInteger(value),
};
const EXPECTED = {
  object: mark("Expected an object in { }."),
  array: mark("Expected a list in [ ]."),
  string: mark("Expected a text in double quotes."),
  boolean: mark("Expected true or false."),
  number: mark("Expected a number."),
  integer: mark("Expected a whole number."),
};

function* problems(value, reference, schemas, path) {
  const schema = resolved(reference, schemas);
  if (value === null) return; // the server treats null as a missing field
  if (schema.type && !KINDS[schema.type](value)) {
    yield { path, text: EXPECTED[schema.type], values: {} };
    return;
  }
  if (schema.type === "object") yield* ofObject(value, schema, schemas, path);
  else if (schema.type === "array") yield* ofArray(value, schema, schemas, path);
  else if (schema.type === "string") yield* ofText(value, schema, path);
  else if (schema.type !== "boolean") yield* ofNumber(value, schema, path);
}

function* ofObject(value, schema, schemas, path) {
  const known = schema.properties ?? {};
  for (const name of schema.required ?? []) {
    if (!Object.hasOwn(value, name) || value[name] === null) {
      yield { path, text: mark("The field {name} is missing."), values: { name } };
    }
  }
  for (const [name, inner] of Object.entries(value)) {
    const place = path ? `${path}.${name}` : name;
    if (Object.hasOwn(known, name)) yield* problems(inner, known[name], schemas, place);
    else if (schema.additionalProperties === false) {
      yield { path: place, name: true, text: mark("There is no such field; the known fields are {names}."), values: { names: Object.keys(known).join(", ") } };
    } else if (typeof schema.additionalProperties === "object") {
      yield* problems(inner, schema.additionalProperties, schemas, place);
    }
  }
  const most = schema.maxProperties;
  if (most !== undefined && Object.keys(value).length > most) {
    yield { path, text: mark("At most {most} items."), values: { most } };
  }
}

function* ofArray(value, schema, schemas, path) {
  const most = schema.maxItems;
  if (most !== undefined && value.length > most) yield { path, text: mark("At most {most} items."), values: { most } };
  for (const [index, item] of value.entries()) yield* problems(item, schema.items, schemas, `${path}[${index}]`);
}

function* ofText(value, schema, path) {
  const length = [...value].length;
  if (schema.enum && !schema.enum.includes(value)) {
    yield { path, text: mark("Expected one of {values}."), values: { values: schema.enum.join(", ") } };
  }
  if (length < (schema.minLength ?? 0) || (schema.minLength && !value.trim())) {
    yield { path, text: mark("This text is too short."), values: {} };
  }
  if (length > (schema.maxLength ?? Infinity)) {
    yield { path, text: mark("At most {most} characters."), values: { most: schema.maxLength } };
  }
  if (value && schema.format === "email" && !/^[^\s@]+@[^\s@]+\.[^\s@]+$/.test(value)) {
    yield { path, text: mark("Expected an e-mail address."), values: {} };
  }
  if (value && schema.format === "phone" && !/^\+[\d ()-]{6,24}$/.test(value)) {
    yield { path, text: mark("Expected a telephone number such as +966500000000."), values: {} };
  }
}

function* ofNumber(value, schema, path) {
  if (value < (schema.minimum ?? -Infinity)) yield { path, text: mark("At least {least}."), values: { least: schema.minimum } };
  if (value > (schema.maximum ?? Infinity)) yield { path, text: mark("At most {most}."), values: { most: schema.maximum } };
}
