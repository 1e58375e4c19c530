// Ways to wait that end when a signal is aborted.

/** Waits, or rejects with the reason of the signal.
 * @param {number} ms
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>} */
export function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason)
    const stop = () => {
      clearTimeout(timer)
      reject(signal?.reason)
    }
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop)
      resolve()
    }, ms)
    signal?.addEventListener('abort', stop, { once: true })
  })
}

/** A gate that pause closes and resume opens. */
export class Gate {
  /** @type {Promise<void>|null} */
  #opened = null
  /** @type {() => void} */
  #open = () => {}

  get isShut() {
    return this.#opened !== null
  }

  shut() {
    this.#opened ??= new Promise((resolve) => {
      this.#open = resolve
    })
  }

  open() {
    this.#open()
    this.#opened = null
  }

  /** Waits until the gate is open.
   * @param {AbortSignal} [signal] */
  async pass(signal) {
    while (this.#opened) await orAborted(this.#opened, signal)
    if (signal?.aborted) throw signal.reason
  }
}

/** @param {Promise<void>} promise
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>} */
function orAborted(promise, signal) {
  if (!signal) return promise
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason)
    if (signal.aborted) return stop()
    signal.addEventListener('abort', stop, { once: true })
    promise.then(() => {
      signal.removeEventListener('abort', stop)
      resolve()
    })
  })
}

/** Limits requests to a number per time window: services of this kind block
 * a key for a while if it sends more. */
export class Pacer {
  /** @type {number[]} */
  #sent = []

  /** @param {{requests: number, seconds: number}|null} rate null for no limit */
  constructor(rate) {
    this.rate = rate
  }

  /** Waits until a request may be sent.
   * @param {AbortSignal} [signal] */
  async turn(signal) {
    if (!this.rate) return
    const { requests, seconds } = this.rate
    const window = seconds * 1050 // the service counts requests when they arrive
    for (;;) {
      const now = performance.now()
      this.#sent = this.#sent.filter((at) => now - at < window)
      if (this.#sent.length < requests) {
        this.#sent.push(now)
        return
      }
      await sleep(window - (now - this.#sent[0]), signal)
    }
  }
}
