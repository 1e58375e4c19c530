// The requests of the pages to the service.

import { words } from './words.js'

export const base = '/console/'

// The proof is useless without the session's cookie, which scripts can't read.
const place = 'carload-console-proof'

let proof = read()

function read() {
  try {
    return localStorage.getItem(place) ?? ''
  } catch {
    return ''
  }
}

/** @param {string} value */
function remember(value) {
  proof = value
  try {
    if (value) localStorage.setItem(place, value)
    else localStorage.removeItem(place)
  } catch {
    // The session then ends with the page.
  }
}

/** The headers that requests need besides the cookie. */
export const headers = () => ({ 'X-Carload-Console': proof || 'none' })

/** An error reply. */
export class Refused extends Error {
  /** @param {string} message @param {number} status */
  constructor(message, status) {
    super(message)
    this.status = status
  }
}

/** @type {() => void} */
let onSignedOut = () => {}

/** @param {() => void} f called when the session has ended */
export function whenSignedOut(f) {
  onSignedOut = f
}

/** @param {string} path @param {RequestInit} [init] */
export async function request(path, init = {}) {
  /** @type {Response} */
  let res
  try {
    res = await fetch(base + path, { credentials: 'same-origin', cache: 'no-store', ...init, headers: { ...headers(), ...init.headers } })
  } catch (e) {
    if (init.signal?.aborted) throw e
    throw new Refused(words.lost, 0)
  }
  if (res.ok) return res
  let message = `${res.status} ${res.statusText}`
  try {
    const answer = await res.json()
    message = typeof answer.error === 'string' ? answer.error : answer.error?.message ?? message
  } catch {
    // not JSON
  }
  if (res.status === 401 && path !== 'session') onSignedOut()
  throw new Refused(message, res.status)
}

/** @param {string} path @param {RequestInit} [init] */
export async function json(path, init) {
  return (await request(path, init)).json()
}

/** @param {unknown} value @param {string} [method] */
export const body = (value, method = 'POST') => ({ method, body: JSON.stringify(value), headers: { 'Content-Type': 'application/json' } })

/** @param {{code?: string, key?: string}} how */
export async function signIn(how) {
  remember((await json('session', body(how))).proof)
}

export async function signOut() {
  try {
    await request('session', { method: 'DELETE' })
  } finally {
    remember('')
  }
}

/** @typedef {{user: string, key: string, keyId: number, rateLimited: boolean, quotaBytes: number}} Session
 * @typedef {{cid: string, name: string, kind: string, type: string, size: number|null, created: number, order: number, state: string, reason?: string, key: string}} Item
 * @typedef {{cid: string, size: number, created: number, damaged: boolean, key: string}} Shard
 * @typedef {Item & {shards: Shard[], shardCount: number, shardBytes: number}} Detail
 * @typedef {{name: string, cid: string, kind: string, size: number, odd?: boolean}} Entry
 * @typedef {{kind: string, size: number, entries?: Entry[], next: number|null}} Tree */

/** @returns {Promise<Session>} */
export const session = () => json('session')

/** The lines of a reply, as they arrive. @param {Response} res */
export async function* lines(res) {
  if (!res.body) return
  const reader = res.body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  for (;;) {
    const { done, value } = await reader.read()
    if (done) break
    const parts = (rest + value).split('\n')
    rest = parts.pop() ?? ''
    yield* parts
  }
  if (rest) yield rest
}

/** Server-sent events, read with fetch, because EventSource can't send the
 * proof. It reconnects after a lost connection, and reports that as "ready".
 * @param {(name: string) => void} told @param {AbortSignal} signal */
export async function events(told, signal) {
  let pause = 500
  while (!signal.aborted) {
    try {
      for await (const line of lines(await request('events', { signal }))) {
        if (line.startsWith('event: ')) {
          told(line.slice(7))
          pause = 500
        }
      }
    } catch (e) {
      if (e instanceof Refused && e.status === 401) return
    }
    if (signal.aborted) return
    await new Promise((resolve) => setTimeout(resolve, pause))
    pause = Math.min(pause * 2, 15_000)
  }
}
