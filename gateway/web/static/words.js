// Words of all pages for the codes of the API: kinds of jobs, states, standings and what lifts them, obstacles, outcomes,
// failures, acts of operators, days.
import { make } from "./elements.js";
import { number, t } from "./texts.js";

const pick = (words, code) => words[code] ?? code ?? "–";

export function kindName(kind) {
  return pick({ "llm-inference": t("Language model"), embeddings: t("Embeddings"), image_generation: t("Image"), training: t("Training"), rendering: t("Rendering"), benchmark: t("Benchmark"), custom_container: t("Container"), vllm_serve: t("serving by vLLM") }, kind);
}

export function statusName(status) {
  return pick({ online: t("online"), offline: t("offline"), paused: t("paused"), draining: t("finishing its jobs"), pending_approval: t("waiting for approval"), suspended: t("suspended") }, status);
}

export function standingName(standing) {
  return pick({ banned: t("banned"), suspect: t("suspect"), new: t("new"), proven: t("proven"), trusted: t("trusted") }, standing);
}

export function standingReason(code) {
  return pick(
    {
      SUSPENDED: t("An operator suspended the machine."),
      CHECKS_FAILED: t("Checks of its work failed."),
      GPU_CONTRADICTS: t("What the machine reports about its GPUs contradicts itself or known facts."),
      IMPOSSIBLE_REPORTS: t("The daemon reported ends of jobs that cannot be true."),
      UNRELIABLE: t("Most of its attempts fail."),
      TOO_YOUNG: t("It registered too lately."),
      FEW_CUSTOMERS: t("Too few independent renters have paid for its work."),
      LITTLE_PAID: t("Independent renters have paid too little for its work."),
      FEW_CHECKS: t("Too few checks of its work have passed."),
      RELIABILITY_UNPROVEN: t("Too few of its attempts have succeeded to be sure of its reliability."),
      VOUCHED: t("An operator knows the owner and vouches for the machine."),
      EARNED: t("It earned this standing by its work."),
    },
    code,
  );
}

/** What lifts a reason, with the figure as it is and as it must be. */
export function lift({ code, has, needs, message }) {
  const figures = { has: number(has ?? 0), needs: number(needs ?? 0) };
  const words = {
    CHECKS_FAILED: t("It must pass {needs} checks in a row.", figures),
    GPU_CONTRADICTS: t("What it reports must have no contradiction."),
    IMPOSSIBLE_REPORTS: t("{has} of its newest 50 attempts ended by an impossible report; at most {needs} may.", figures),
    UNRELIABLE: t("{has} of its newest attempts succeeded; about {needs} or more must.", figures),
    TOO_YOUNG: t("Registered {has} of {needs} days ago", figures),
    FEW_CUSTOMERS: t("{has} of {needs} independent renters have paid", figures),
    LITTLE_PAID: t("SAR {has} of SAR {needs} paid by independent renters", { has: number((has ?? 0) / 100), needs: number((needs ?? 0) / 100) }),
    FEW_CHECKS: t("{has} of {needs} checks passed", figures),
    RELIABILITY_UNPROVEN: t("{has} % of the needed {needs} % reliability proven", figures),
  };
  return words[code] ?? message ?? code;
}

/** Of each obstacle: what keeps a provider from a job, and the same for the provider's owner, with what to do. */
const obstacles = () => ({
  NONE: [t("none: it is free"), t("Nothing keeps the jobs away.")],
  NOT_LIVE: [t("offline"), t("The machine is offline: start its daemon.")],
  NO_SESSION: [t("its daemon is not connected"), t("The daemon is not connected: start it.")],
  PAUSED: [t("paused by its owner"), t("You paused the machine.")],
  DRAINING: [t("finishes its jobs and takes no more"), t("The machine finishes its jobs and takes no more.")],
  NOT_ADMITTED: [t("suspended or not approved"), t("The machine is suspended or not approved yet.")],
  JOB_TYPE_NOT_SERVED: [t("does not run this kind of job"), t("The machine does not run this kind of job.")],
  MODEL_NOT_SERVED: [t("does not serve the model"), t("The machine does not serve the models that are asked for.")],
  OTHER_GPU: [t("has another GPU"), t("The jobs ask for another GPU.")],
  TOO_LITTLE_VRAM: [t("has too little GPU memory"), t("The jobs ask for more GPU memory.")],
  BUSY: [t("all its slots are taken"), t("All slots of the machine are taken.")],
  REFUSED: [t("refused it, or did not answer"), t("The daemon refused them, or did not answer, a moment ago.")],
  OUTSIDE_HOURS: [t("outside its hours"), t("It is outside your hours.")],
  TOO_HOT: [t("its GPU is too hot"), t("The GPU is hotter than your limit.")],
  RATE_ABOVE_QUOTE: [t("asks more than was quoted"), t("Your rate is above what the jobs were quoted.")],
  VRAM_RESERVED: [t("its owner reserves too much GPU memory"), t("You reserve too much of the GPU's memory.")],
  VRAM_UNKNOWN: [t("does not report its GPU memory"), t("The machine does not report its GPU's memory.")],
  NO_CONTAINERS: [t("runs commands without containers"), t("The machine runs commands without containers: only jobs that name it come.")],
  DAEMON_TOO_OLD: [t("its daemon is too old"), t("The daemon is too old: update it.")],
  DRIVER_TOO_OLD: [t("its NVIDIA driver is too old"), t("The NVIDIA driver is too old: update it.")],
  TOOLKIT_TOO_OLD: [t("its NVIDIA Container Toolkit is missing or too old"), t("The NVIDIA Container Toolkit is missing or too old.")],
  GPUS_FAILED: [t("no GPU of it is healthy"), t("No GPU of the machine is healthy.")],
  SELF_TEST_FAILED: [t("its self-test has not passed"), t("The daemon's self-test for such jobs has not passed.")],
  TWO_DAEMONS: [t("two daemons use its key"), t("Two daemons use this machine's key: stop one of them.")],
  IMAGE_NOT_ALLOWED: [t("its owner does not allow the image"), t("You do not allow the images that are asked for.")],
  OTHER_ARCHITECTURE: [t("has another processor"), t("The jobs need another processor.")],
  STANDING_TOO_LOW: [t("its standing is too low"), t("The jobs go to machines with a better standing.")],
  VALUE_AT_RISK: [t("its open jobs hold as much as its standing allows"), t("Open jobs hold as much as the standing allows.")],
});

/** What keeps a provider from a job, in few words. */
export const obstacleName = ({ code, message }) => exact(obstacles()[code]?.[0], message) ?? code;

/** The same for the provider's owner, with what to do. */
export const obstacleForOwner = ({ code, message }) => exact(obstacles()[code]?.[1], message) ?? code;

/** The server's own sentence, which is more exact, where the page is in its language or has no word for it. */
const exact = (words, message) => (message && (!words || document.documentElement.lang === "en") ? make("bdi", { lang: "en" }, message) : words);

/** Why a job waits. */
export function waitName({ code, message }) {
  const words = {
    NEXT: t("A free provider can run it; it is about to be offered."),
    ALL_BUSY: t("Every provider that can run it is busy."),
    PROVIDER_BUSY: t("The provider that it names is busy."),
    PROVIDER_AWAY: t("The provider that it names is away or takes no jobs now."),
    NO_PROVIDER: t("No connected provider can run it."),
    STARTING: t("It is offered to a provider, or a provider prepares it."),
    RUNNING: t("It runs."),
    COMPLETED: t("It is completed."),
    FAILED: t("It failed."),
    CANCELLED: t("It was cancelled."),
  };
  return exact(words[code], message) ?? code ?? "–";
}

/** What a key may do. */
export function scopeName(scope) {
  return pick({ inference: t("submitting jobs"), billing: t("the wallet"), read: t("reading") }, scope);
}

/** How an attempt or an offer ended. */
export function outcomeName(outcome) {
  return pick({ succeeded: t("succeeded"), refused: t("refused by the daemon"), expired: t("not answered in time"), revoked: t("taken back"), cancelled: t("cancelled"), lost: t("the machine fell silent"), released: t("given back"), failed: t("failed") }, outcome);
}

/** Why a job or an attempt failed. */
export function failureName(reason) {
  return pick(
    {
      PROMPT_TOO_LONG: t("Prompt and answer do not fit into the model's context."),
      MODEL_NOT_SERVED: t("The provider no longer serves the model."),
      ENGINE_FAILED: t("The model server or the runner failed."),
      DURATION_LIMIT: t("It reached its limit of time or cost."),
      PROVIDER_LOST: t("The provider fell silent."),
      PROVIDER_DRAINED: t("The provider's owner stopped the daemon or needed the GPU."),
      CANCELLED: t("The renter or an operator cancelled it."),
      BAD_PARAMS: t("The model server rejected the parameters."),
      OUTPUT_TOO_LARGE: t("It left more or larger files than the limits allow."),
      START_DEADLINE: t("No provider started it in time."),
      IMAGE_NOT_ALLOWED: t("The provider's owner does not allow the image."),
      IMAGE_PULL_FAILED: t("The image could not be fetched."),
      CONTAINER_EXIT: t("Its program ended with an error."),
      OUT_OF_MEMORY: t("Its program used too much memory."),
      DISK_LIMIT: t("Its program filled the disk that it may use."),
      CONTAINER_ENGINE_UNAVAILABLE: t("The provider's container engine does not answer."),
      CONTAINER_START_FAILED: t("The container could not be started."),
      PROCESS_LIMIT: t("Its program needed too many processes."),
      GPU_FAILED: t("The GPU failed."),
      ENGINE_BUSY: t("The provider's model server was busy."),
      NO_ANSWER: t("The model wrote no answer within its limit of tokens."),
      OTHER_ARCHITECTURE: t("The image is for another processor."),
      IMPOSSIBLE_REPORT: t("The daemon reported an end that cannot be."),
      INPUT_REFUSED: t("The provider did not take the inputs."),
    },
    reason,
  );
}

/** What an operator did, or an owner with a mailed code. */
export function actName(action) {
  return pick(
    {
      "renter.credit": t("credited the wallet"),
      "renter.suspend": t("suspended the account"),
      "renter.unsuspend": t("ended the suspension"),
      "renter.recover_key": t("began to replace a lost key"),
      "renter.replace_key": t("replaced a lost key"),
      "renter.keep_key": t("kept the present key"),
      "renter.redeem_code": t("used the code for a lost key"),
      "provider.suspend": t("suspended the account"),
      "provider.unsuspend": t("ended the suspension"),
      "provider.approve": t("approved the machine"),
      "provider.vouch": t("vouched for it"),
      "provider.unvouch": t("vouched no longer"),
      "provider.recover_key": t("began to replace a lost key"),
      "provider.replace_key": t("replaced a lost key"),
      "provider.keep_key": t("kept the present key"),
      "provider.redeem_code": t("used the code for a lost key"),
      "job.cancel": t("cancelled the job"),
      "job.requeue": t("put the job back into the queue"),
      "rate.change": t("changed the rate"),
      "price.change": t("changed the price"),
      "dispute.uphold": t("upheld the dispute"),
      "dispute.reject": t("rejected the dispute"),
      "withdrawal.process": t("ordered the transfer"),
      "withdrawal.pay": t("marked the payout as paid"),
      "withdrawal.reject": t("rejected the payout"),
      "withdrawal.cancel": t("cancelled the withdrawal"),
      "webhook.set": t("set the address"),
      "webhook.remove": t("removed the address"),
      "webhook.rotate": t("made a new secret"),
      "webhook.test": t("sent a test event"),
      "operator.invite": t("invited the operator"),
      "operator.invite_again": t("invited the operator again"),
      "operator.accept_invitation": t("accepted the invitation"),
      "operator.role": t("changed the role"),
      "operator.remove": t("removed the operator"),
      "operator.log_in": t("logged in"),
      "operator.log_out": t("logged out"),
      "operator.add_passkey": t("added a passkey"),
      "operator.remove_passkey": t("removed a passkey"),
      "operator.create_key": t("created a key"),
      "operator.revoke_key": t("revoked a key"),
    },
    action,
  );
}

export function withdrawalState(state) {
  return pick({ pending: t("waiting"), processing: t("in work"), paid: t("paid"), rejected: t("rejected") }, state);
}

/** The days of the week as the API names them, from Sunday on, with their names for people. */
export const DAYS = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

export function dayName(day) {
  const at = new Date(Date.UTC(2026, 0, 4 + DAYS.indexOf(day))); // 4 January 2026 was a Sunday
  return new Intl.DateTimeFormat(document.documentElement.lang, { weekday: "short", timeZone: "UTC" }).format(at);
}
