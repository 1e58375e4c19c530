// Rate and remaining time.

/** The period over which the rate is measured. */
const windowMs = 10_000

export class Rate {
  /** @type {{at: number, done: number}[]} */
  #samples = []

  /** Restarts at another amount.
   * @param {number} done */
  restart(done) {
    this.#samples = [{ at: performance.now(), done }]
  }

  /** @param {number} done */
  sample(done) {
    const now = performance.now()
    this.#samples.push({ at: now, done })
    // Keep one older sample, so that there is always a span.
    while (this.#samples.length > 2 && now - this.#samples[1].at > windowMs) this.#samples.shift()
  }

  /** Bytes per second. */
  get perSecond() {
    const first = this.#samples[0]
    const last = this.#samples[this.#samples.length - 1]
    if (!first || last.at - first.at < 500) return 0
    return Math.max(0, ((last.done - first.done) * 1000) / (last.at - first.at))
  }
}
