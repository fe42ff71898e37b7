// Words of the provider's pages for the codes of the API: states, standings, what lifts them, obstacles, kinds of jobs, days.
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

/** Why a waiting job does not come to this machine, and what its owner can do. */
export function obstacleWords(code) {
  return pick(
    {
      NOT_LIVE: t("The machine is offline: start its daemon."),
      NO_SESSION: t("The daemon is not connected: start it."),
      PAUSED: t("You paused the machine."),
      DRAINING: t("The machine finishes its jobs and takes no more."),
      NOT_ADMITTED: t("The machine is suspended or not approved yet."),
      JOB_TYPE_NOT_SERVED: t("The machine does not run this kind of job."),
      MODEL_NOT_SERVED: t("The machine does not serve the models that are asked for."),
      OTHER_GPU: t("The jobs ask for another GPU."),
      TOO_LITTLE_VRAM: t("The jobs ask for more GPU memory."),
      BUSY: t("All slots of the machine are taken."),
      REFUSED: t("The daemon refused them, or did not answer, a moment ago."),
      OUTSIDE_HOURS: t("It is outside your hours."),
      TOO_HOT: t("The GPU is hotter than your limit."),
      RATE_ABOVE_QUOTE: t("Your rate is above what the jobs were quoted."),
      VRAM_RESERVED: t("You reserve too much of the GPU's memory."),
      VRAM_UNKNOWN: t("The machine does not report its GPU's memory."),
      NO_CONTAINERS: t("The machine runs commands without containers: only jobs that name it come."),
      DAEMON_TOO_OLD: t("The daemon is too old: update it."),
      DRIVER_TOO_OLD: t("The NVIDIA driver is too old: update it."),
      TOOLKIT_TOO_OLD: t("The NVIDIA Container Toolkit is missing or too old."),
      GPUS_FAILED: t("No GPU of the machine is healthy."),
      SELF_TEST_FAILED: t("The daemon's self-test for such jobs has not passed."),
      IMAGE_NOT_ALLOWED: t("You do not allow the images that are asked for."),
      OTHER_ARCHITECTURE: t("The jobs need another processor."),
      STANDING_TOO_LOW: t("The jobs go to machines with a better standing."),
      VALUE_AT_RISK: t("Open jobs hold as much as the standing allows."),
    },
    code,
  );
}

export function outcomeName(outcome) {
  return pick({ refused: t("refused by the daemon"), expired: t("not answered in time"), revoked: t("taken back"), cancelled: t("cancelled by the renter"), lost: t("the machine fell silent"), released: t("given back"), failed: t("failed") }, outcome);
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
