// Passkeys in this browser: one is created, or answers, for a challenge of the server. Bytes are base64 in JSON.
import { t } from "./texts.js";

const ALGORITHMS = [-7, -257, -8]; // ES256, RS256, EdDSA: one of them is in every device
const WAIT_MS = 5 * 60 * 1000;

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const text = (buffer) => btoa(Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join(""));

/** Why no passkey came, in words. */
export class NoPasskey extends Error {}

/** Creates a passkey; returns the fields of a request that adds it. */
export async function createPasskey(asked, name) {
  const { rawId, response } = await call("create", {
    challenge: bytes(asked.challenge),
    rp: { id: asked.domain, name: "DCP" },
    user: { id: bytes(asked.user), name: asked.operator.name, displayName: asked.operator.name },
    pubKeyCredParams: ALGORITHMS.map((alg) => ({ type: "public-key", alg })),
    excludeCredentials: (asked.known ?? []).map((id) => ({ type: "public-key", id: bytes(id) })),
    authenticatorSelection: { residentKey: "required", requireResidentKey: true, userVerification: "required" },
    attestation: "none",
    timeout: WAIT_MS,
  });
  return { name, credential: text(rawId), client_data: text(response.clientDataJSON), attestation: text(response.attestationObject) };
}

/** Lets the person choose a passkey of this site; returns the fields of a request that logs in. */
export async function answerPasskey(asked) {
  const { rawId, response } = await call("get", { challenge: bytes(asked.challenge), rpId: asked.domain, userVerification: "required", timeout: WAIT_MS });
  return { credential: text(rawId), client_data: text(response.clientDataJSON), authenticator_data: text(response.authenticatorData), signature: text(response.signature), user: text(response.userHandle ?? new ArrayBuffer(0)) };
}

async function call(what, publicKey) {
  if (!window.PublicKeyCredential) throw new NoPasskey(t("This browser has no passkeys here: they need https, or the address http://localhost."));
  try {
    return await navigator.credentials[what]({ publicKey });
  } catch (error) {
    throw new NoPasskey(problemOf(error.name));
  }
}

function problemOf(name) {
  if (name === "InvalidStateError") return t("This device has a passkey of yours already.");
  if (name === "SecurityError") return t("Passkeys of this market belong to another address. Open the page at the market's own address.");
  return t("No passkey was used. Try again, and confirm on your device.");
}
