import { words } from './words.js'

/** An error of an upload. The code is for programs; the message is a sentence
 * for people. */
export class PackError extends Error {
  /** @param {string} code one of those in words.js
   * @param {Record<string, any>} [about] values for the sentence: path, status, detail …
   * @param {{retryable?: boolean, retryAfter?: number, cause?: unknown}} [options] */
  constructor(code, about = {}, options = {}) {
    super(words[code](about), { cause: options.cause })
    this.name = 'PackError'
    this.code = code
    /** HTTP status of the reply, or 0. */
    this.status = /** @type {number} */ (about.status ?? 0)
    /** The message of the service. */
    this.detail = /** @type {string} */ (about.detail ?? '')
    /** The file that failed, if it was one. */
    this.path = /** @type {string} */ (about.path ?? '')
    /** Whether the same request can succeed later. */
    this.retryable = options.retryable ?? false
    /** Seconds that the service asks to wait, or 0. */
    this.retryAfter = options.retryAfter ?? 0
  }
}

/** The error for a file that could not be read.
 * @param {unknown} err
 * @param {string} path */
export function readError(err, path) {
  if (err instanceof PackError) return err
  const name = err instanceof Error || err instanceof DOMException ? err.name : ''
  return new PackError(name === 'NotFoundError' || name === 'SecurityError' ? 'unreadable' : 'changed', { path }, { cause: err })
}

/** @param {AbortSignal|undefined} signal */
export function throwIfAborted(signal) {
  if (signal?.aborted) throw signal.reason
}
