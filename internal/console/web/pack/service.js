// The parts of the NFT.Storage HTTP API that an upload needs: sending a shard,
// and asking what the service has.

import { PackError } from './errors.js'

/** Where an upload goes, and how.
 * @typedef {object} Endpoint
 * @property {string} [endpoint] base URL of the API; empty is the page's origin
 * @property {string} [token] API key, sent as a bearer
 * @property {Record<string, string>|(() => Record<string, string>)} [headers] more headers of each request
 * @property {'omit'|'same-origin'|'include'} [credentials] whether cookies go along; not by default
 * @property {number} [stallSeconds] a request that moves no bytes for this long has failed; 120 by default */

/** The state of an upload at a service: whether it is complete, and the CIDs of
 * its archives.
 * @typedef {{root: string, pinned: boolean, parts: Set<string>}} Status */

/** @typedef {{status: number, header: (name: string) => string|null, text: string}} Reply */

/** @typedef {object} Request
 * @property {string} method
 * @property {string} url
 * @property {Record<string, string>} headers
 * @property {Blob} [body]
 * @property {AbortSignal} [signal]
 * @property {(sent: number) => void} [onprogress] bytes of the body that were sent */

/** The most that is read of a reply, because a service may send anything. */
const maxReplyBytes = 4 << 20

/** How long NFT.Storage blocks a key that sends too many requests. */
const blockSeconds = 30

/** Messages with status 500 that refuse an archive for good. */
const refusals = ['missing roots', 'too many roots', 'block too big', 'empty CAR', 'missing root block', 'CAR must contain at least one non-root block']

/** The code for a block that does not match its CID. */
const damaged = 'ERROR_INVALID_CAR'

export class Service {
  /** @param {Endpoint} options */
  constructor({ endpoint = '', token, headers = {}, credentials = 'omit', stallSeconds = 120 }) {
    this.base = endpoint.replace(/\/+$/, '')
    this.#token = token
    this.#headers = headers
    this.#credentials = credentials
    this.#stallMs = stallSeconds * 1000
  }

  #token
  #headers
  #credentials
  #stallMs

  /** Sends a shard.
   * @param {Blob} body
   * @param {{name: string, signal?: AbortSignal, onprogress?: (sent: number) => void}} options */
  async put(body, { name, signal, onprogress }) {
    const headers = { 'Content-Type': 'application/car', 'X-Name': encodeURIComponent(name) }
    const reply = await this.#send({ method: 'POST', url: `${this.base}/upload`, headers, body, signal, onprogress })
    return asStatus(reply)
  }

  /** The state of an upload at the service; null if the service does not know it.
   * @param {string} root
   * @param {AbortSignal} [signal]
   * @returns {Promise<Status|null>} */
  async status(root, signal) {
    const reply = await this.#send({ method: 'GET', url: `${this.base}/${root}`, headers: {}, signal }, [404])
    return reply.status === 404 ? null : asStatus(reply)
  }

  /** @param {Request} request
   * @param {number[]} [fine] statuses that are not errors */
  async #send(request, fine = []) {
    const more = typeof this.#headers === 'function' ? this.#headers() : this.#headers
    Object.assign(request.headers, more)
    if (this.#token) request.headers.Authorization = `Bearer ${this.#token}`
    const send = typeof XMLHttpRequest === 'undefined' ? sendByFetch : sendByXHR
    const reply = await send(request, this.#credentials, this.#stallMs)
    if ((reply.status < 200 || reply.status > 299) && !fine.includes(reply.status)) throw refusal(reply)
    return reply
  }
}

/** Sends with XMLHttpRequest, the only way to learn how much of a body was sent.
 * @param {Request} request
 * @param {'omit'|'same-origin'|'include'} credentials
 * @param {number} stallMs
 * @returns {Promise<Reply>} */
function sendByXHR({ method, url, headers, body, signal, onprogress }, credentials, stallMs) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason)
    const xhr = new XMLHttpRequest()
    let timer = 0
    /** @param {() => void} how */
    const end = (how) => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', stop)
      how()
    }
    /** @param {PackError} err */
    const fail = (err) => end(() => reject(err))
    const stop = () => {
      xhr.abort()
      end(() => reject(signal?.reason))
    }
    const moved = () => {
      clearTimeout(timer)
      timer = setTimeout(() => {
        xhr.abort()
        fail(unreachable())
      }, stallMs)
    }
    xhr.open(method, url)
    // The browser always sends cookies of the page's origin, others only if asked.
    xhr.withCredentials = credentials === 'include'
    for (const [name, value] of Object.entries(headers)) xhr.setRequestHeader(name, value)
    xhr.upload.onprogress = ({ loaded }) => {
      moved()
      onprogress?.(loaded)
    }
    xhr.onprogress = ({ loaded }) => {
      moved()
      if (loaded <= maxReplyBytes) return
      xhr.abort()
      fail(new PackError('wrong-reply'))
    }
    xhr.onerror = () => fail(unreachable())
    xhr.onload = () => end(() => resolve({ status: xhr.status, header: (name) => xhr.getResponseHeader(name), text: xhr.responseText }))
    signal?.addEventListener('abort', stop, { once: true })
    moved()
    xhr.send(body ?? null)
  })
}

/** Sends without XMLHttpRequest, as in Node.
 * @param {Request} request
 * @param {'omit'|'same-origin'|'include'} credentials
 * @param {number} stallMs
 * @returns {Promise<Reply>} */
async function sendByFetch({ method, url, headers, body, signal, onprogress }, credentials, stallMs) {
  const stalled = AbortSignal.timeout(10 * stallMs)
  try {
    const reply = await fetch(url, { method, headers, body, credentials, signal: signal ? AbortSignal.any([signal, stalled]) : stalled })
    const text = await reply.text()
    if (body) onprogress?.(body.size)
    return { status: reply.status, header: (name) => reply.headers.get(name), text }
  } catch (cause) {
    throw signal?.aborted ? signal.reason : unreachable(cause)
  }
}

/** @param {unknown} [cause] */
function unreachable(cause) {
  return new PackError('network', {}, { retryable: true, cause })
}

/** @param {Reply} reply
 * @returns {Status} */
function asStatus({ header, text }) {
  if (header('Content-Type')?.includes('text/html')) throw new PackError('wrong-reply')
  const value = parse(text)?.value
  if (typeof value?.cid !== 'string') {
    // The reply may have been cut short although the service accepted the request.
    throw new PackError('wrong-reply', {}, { retryable: true })
  }
  const parts = Array.isArray(value.parts) ? value.parts.filter((/** @type {unknown} */ p) => typeof p === 'string') : []
  return { root: value.cid, pinned: value.pin?.status === 'pinned', parts: new Set(parts) }
}

/** @param {string} text
 * @returns {any} null if it is not JSON */
function parse(text) {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}

/** The message of a service for display: shortened, on one line.
 * @param {unknown} message */
function shown(message) {
  return typeof message === 'string' ? message.replace(/[\p{C}\s]+/gu, ' ').trim().slice(0, 300) : ''
}

/** The error for a reply: its message for people, and whether
 * the same request can succeed later.
 * @param {Reply} reply */
function refusal({ status, header, text }) {
  const error = parse(text)?.error
  const code = error?.reason ?? error?.code
  const detail = shown(error?.details ?? error?.message)
  const about = { status, detail }
  const retryAfter = secondsOf(header('Retry-After'))
  const later = { retryable: true, retryAfter }
  switch (status) {
    case 401:
      return new PackError('unauthorized', about)
    case 403:
      return new PackError(code === 'ERROR_QUOTA_EXCEEDED' ? 'quota' : 'forbidden', about)
    case 408:
    case 425:
      return new PackError('network', about, later)
    case 413:
      return new PackError('too-large', about)
    case 429:
      return new PackError('rate', about, { retryable: true, retryAfter: retryAfter || blockSeconds })
    case 400:
      return code === damaged ? new PackError('changed', { ...about, path: '' }, later) : new PackError('refused', about)
    case 503:
      return code === 'ERROR_MAINTENANCE' ? new PackError('maintenance', about) : new PackError('service', about, later)
    case 507:
      return new PackError('disk-full', about)
    case 501:
    case 505:
      return new PackError('refused', about)
  }
  if (status < 500 || (status === 500 && code === 'Error' && refusals.some((r) => detail.includes(r)))) return new PackError('refused', about)
  return new PackError('service', about, later)
}

/** @param {string|null} header Retry-After: seconds, or a date */
function secondsOf(header) {
  if (!header) return 0
  const seconds = /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000
  return Number.isFinite(seconds) ? Math.min(3600, Math.max(0, Math.ceil(seconds))) : 0
}
