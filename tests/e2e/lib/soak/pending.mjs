// Names the steps of the soak that are under way. A round that hangs lists them.

/** Steps that have begun and not ended. */
export class Pending {
  #steps = new Set();

  /**
   * Resolves or rejects as `promise` does, and has this step among the pending ones until then. `what` is its name, or a
   * function that returns it, for a name that says how far the step is.
   */
  async step(what, promise) {
    const step = { what, since: Date.now() };
    this.#steps.add(step);
    try {
      return await promise;
    } finally {
      this.#steps.delete(step);
    }
  }

  /** The pending steps as lines of text, the oldest first, each with since when it is under way. */
  lines(now = Date.now()) {
    const steps = [...this.#steps].sort((a, b) => a.since - b.since);
    return steps.map(({ what, since }) => `${typeof what === "function" ? what() : what}, for ${((now - since) / 1000).toFixed(1)} s`);
  }

  /** As `promise`, but fails after so many milliseconds, and then says what is pending. */
  async within(milliseconds, promise, what) {
    try {
      return await within(milliseconds, promise, what);
    } catch (error) {
      if (!(error instanceof Late)) throw error;
      throw new Late(`${error.message}. What is pending:\n${this.lines().map((line) => `  ${line}`).join("\n") || "  nothing that has a name"}`);
    }
  }
}

/** What has no answer in time fails with this. */
export class Late extends Error {}

/** Fails if it takes longer: a request to a server that is killed may never be answered. */
export function within(milliseconds, promise, what = "what was asked") {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Late(`${what} has no answer after ${milliseconds / 1000} s`)), milliseconds)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
