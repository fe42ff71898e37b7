// The texts of the scripts. The English text is the key; each other language has a file in this folder.
const language = document.documentElement.lang;

async function translations() {
  if (language === "en") return {};
  try {
    const answer = await fetch(new URL(`texts.${language}.json`, import.meta.url));
    return answer.ok ? await answer.json() : {};
  } catch {
    return {}; // without translations the page is shown in English
  }
}

const texts = await translations();

/** The text in the page's language, with {name} replaced by values. */
export function t(text, values = {}) {
  return (texts[text] ?? text).replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

/** Marks a text that is translated later, where it is shown. */
export const mark = (text) => text;

/** A number for people of the page's language, in Latin digits like all figures here. */
export function number(value, options = {}) {
  return new Intl.NumberFormat(`${language}-u-nu-latn`, options).format(value);
}
