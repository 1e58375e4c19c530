// An upload from beginning to end: hash, send what the service lacks, and report
// success only when the service has everything.

import { DAG } from './dag.js'
import { DEFAULT_RECIPE } from './layout.js'
import { DEFAULT_SHARD_BYTES, Plan } from './plan.js'
import { DIGEST_BYTES, carCIDText } from './cid.js'
import { Gate, Pacer, sleep } from './waiting.js'
import { PackError, readError } from './errors.js'
import { PieceError, Pool } from './pool.js'
import { Rate } from './progress.js'
import { SHARD } from './ledger.js'
import { Service } from './service.js'
import { describe } from './describe.js'
import { identify } from './identity.js'

/** @typedef {import('./tree.js').Input} Input */
/** @typedef {import('./service.js').Status} Status */
/** @typedef {Pick<import('./ledger.js').Ledger, 'described'|'keepDescribed'|'sent'|'keepSent'|'finish'|'forget'>} Memory */

/** @typedef {object} UploadOptions
 * @property {string} [name] name of the upload at the service; the input's name by default
 * @property {Memory|null} [ledger] where to record progress; null for nowhere
 * @property {{requests: number, seconds: number}|null} [rate] how many requests the service allows
 * @property {number} [parallel] shards in flight
 * @property {number} [maxShardBytes]
 * @property {number} [tries] attempts for a request, including the first
 * @property {number} [backoffSeconds] the first pause between attempts
 * @property {number} [keepSeconds] how often to save digests in the ledger while hashing; 5 by default
 * @property {number} [completeSeconds] how long to wait until the service reports the upload complete
 * @property {number} [workers]
 * @property {string|URL} [workerURL]
 * @property {import('./layout.js').Recipe} [recipe] */

/** @typedef {'hashing'|'sending'|'checking'|'done'|'failed'} Phase */

/** A shard for display. A known shard was already at the service.
 * @typedef {{index: number, size: number, state: 'waiting'|'sending'|'sent'|'known', sent: number, tries: number}} ShardProgress */

/** @typedef {object} Progress
 * @property {Phase} phase
 * @property {boolean} paused
 * @property {number} waiting seconds until the next attempt, or 0
 * @property {number} done bytes of the phase
 * @property {number} total
 * @property {number} files hashed so far
 * @property {number} filesTotal
 * @property {number} rate bytes per second
 * @property {number|null} left seconds left in this phase; null if unknown
 * @property {ShardProgress[]} shards
 * @property {string|null} root
 * @property {string} name
 * @property {PackError|null} error */

/** @typedef {{root: string, name: string, bytes: number, shards: number, sentShards: number, sentBytes: number, knownShards: number}} Result */

const progressMs = 200
const maxBackoffSeconds = 60

/** If the service reports the same damage twice, the file has
 * changed. */
const triesOfChanged = 3

/** The reason for aborting requests in flight on pause. */
const paused = new Error('paused')

/** One upload. It reports its progress by events: 'progress' with a
 * {@link Progress} as detail, 'root' once the root is known, and 'warning' with
 * a {@link PackError} that does not end the upload. */
export class Upload extends EventTarget {
  /** @param {Input} input
   * @param {UploadOptions & import('./service.js').Endpoint} options */
  constructor(input, options) {
    super()
    this.#input = input
    this.#options = options
    this.#service = new Service(options)
    this.#pacer = new Pacer(options.rate === undefined ? { requests: 30, seconds: 10 } : options.rate)
    this.#memory = options.ledger ?? null
    this.#recipe = options.recipe ?? DEFAULT_RECIPE
    this.#name = options.name ?? input.name
    this.#identity = identify(input, this.#recipe)
    this.#total = this.#identity.bytes
  }

  #input
  #options
  #service
  #pacer
  #memory
  #recipe
  #name
  #identity

  #started = false
  #cancel = new AbortController()
  #gate = new Gate()
  /** Aborted by pause: requests in flight end. */
  #flight = new AbortController()
  /** The earliest time for the next request. */
  #holdUntil = 0

  /** @type {Phase} */
  #phase = 'hashing'
  #done = 0
  #total = 0
  #filesDone = 0
  #rate = new Rate()
  /** @type {string|null} */
  #root = null
  /** @type {PackError|null} */
  #error = null
  #emitted = 0
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  #timer

  /** @type {Pool|null} */
  #pool = null
  /** @type {ShardProgress[]} */
  #shards = []
  #states = new Uint8Array(0)
  /** Shards that this run sent. @type {Set<number>} */
  #mine = new Set()
  /** The service reported the upload complete. */
  #complete = false
  /** Archives that the service reported. @type {Set<string>} */
  #held = new Set()
  /** Shards are looked up in #held by their digest before they are sent. */
  #lookUp = false

  /** Hashes, sends and checks. Call it once.
   * @returns {Promise<Result>} */
  async run() {
    if (this.#started) throw new Error('an upload runs once')
    this.#started = true
    try {
      const result = await exclusively(`carload-pack ${this.#identity.key} ${this.#service.base}`, () => this.#run())
      this.#enter('done', this.#total, this.#total)
      return result
    } catch (err) {
      this.#error = this.#asPackError(err)
      this.#enter('failed', this.#done, this.#total)
      throw this.#error
    }
  }

  /** Pauses until resume is called, which sends shards in flight again. */
  pause() {
    this.#gate.shut()
    this.#flight.abort(paused)
    this.#flight = new AbortController()
    this.#emit(true)
  }

  resume() {
    this.#gate.open()
    this.#rate.restart(this.#done)
    this.#emit(true)
  }

  /** Ends the upload, and keeps what was sent in the ledger. */
  cancel() {
    this.#cancel.abort(new PackError('cancelled'))
  }

  /** @returns {Progress} */
  get progress() {
    const perSecond = this.#gate.isShut ? 0 : this.#rate.perSecond
    const moving = this.#phase === 'hashing' || this.#phase === 'sending'
    return {
      phase: this.#phase,
      paused: this.#gate.isShut,
      waiting: Math.max(0, Math.ceil((this.#holdUntil - performance.now()) / 1000)),
      done: this.#done,
      total: this.#total,
      files: this.#filesDone,
      filesTotal: this.#identity.files,
      rate: perSecond,
      left: moving && perSecond > 0 ? (this.#total - this.#done) / perSecond : null,
      shards: this.#shards.map((s) => ({ ...s })),
      root: this.#root,
      name: this.#name,
      error: this.#error,
    }
  }

  async #run() {
    try {
      const plan = await this.#describe()
      this.#root = plan.root
      this.dispatchEvent(new CustomEvent('root', { detail: { root: plan.root } }))
      await this.#send(plan)
      await this.#remember((memory) => memory.finish(this.#way(plan)))
      return {
        root: plan.root,
        name: this.#name,
        bytes: plan.dag.bytes,
        shards: plan.shards.length,
        sentShards: this.#mine.size,
        sentBytes: [...this.#mine].reduce((n, i) => n + plan.shards[i].size, 0),
        knownShards: plan.shards.length - this.#mine.size,
      }
    } finally {
      this.#pool?.close()
    }
  }

  async #describe() {
    const dag = new DAG(this.#input, this.#recipe)
    let done = new Uint8Array(dag.leaves.length / DIGEST_BYTES)
    const before = await this.#remember((memory) => memory.described(this.#identity))
    if (before?.leaves.length === dag.leaves.length && before.done.length === done.length) {
      dag.leaves.set(before.leaves)
      done = Uint8Array.from(before.done)
    }
    this.#enter('hashing', 0, dag.bytes)
    let kept = performance.now()
    this.#pool = new Pool(this.#options)
    await describe(dag, this.#pool, {
      signal: this.#cancel.signal,
      done,
      gate: () => this.#gate.pass(this.#cancel.signal),
      onprogress: ({ bytes, files }) => {
        this.#done += bytes
        this.#filesDone += files
        this.#emit()
        if (performance.now() - kept < (this.#options.keepSeconds ?? 5) * 1000) return
        kept = performance.now()
        void this.#remember((memory) => memory.keepDescribed(this.#identity, { leaves: dag.leaves, done, root: null }))
      },
    })
    this.#pool.close() // and frees its memory
    this.#pool = null
    const plan = new Plan(dag, this.#options.maxShardBytes ?? DEFAULT_SHARD_BYTES)
    await this.#remember((memory) => memory.keepDescribed(this.#identity, { leaves: dag.leaves, done, root: plan.root }))
    return plan
  }

  /** Sends what the service lacks, until it reports the DAG complete.
   * @param {Plan} plan */
  async #send(plan) {
    this.#shards = plan.shards.map(({ size }, index) => ({ index, size, state: 'waiting', sent: 0, tries: 0 }))
    this.#enter('sending', 0, plan.bytes)
    const status = await this.#try((signal) => this.#service.status(plan.root, signal))
    await this.#recall(plan, status)
    await this.#sendAll(plan)
    if (await this.#isComplete(plan)) return
    // The counts of ledger and service may differ: the service may have
    // lost a shard. Look for each one by its digest.
    this.#lookUp = true
    for (const shard of this.#shards) this.#mark(plan, shard.index, SHARD.waiting)
    this.#enter('sending', 0, plan.bytes)
    await this.#sendAll(plan)
    if (!(await this.#isComplete(plan))) throw new PackError('incomplete')
  }

  /** Finds out which shards need not be sent. It trusts the ledger if the
   * service has as many archives as the ledger says.
   * @param {Plan} plan
   * @param {Status|null} status */
  async #recall(plan, status) {
    this.#states = new Uint8Array(plan.shards.length)
    this.#heard(plan, status)
    if (!status) return // the service has nothing, whatever the ledger says
    const before = await this.#remember((memory) => memory.sent(this.#way(plan)))
    const sent = before?.shards.length === this.#states.length ? before.shards : this.#states
    const count = sent.reduce((n, s) => n + (s === SHARD.sent ? 1 : 0), 0)
    const believed = count <= status.parts.size
    this.#lookUp = believed ? status.parts.size > count : status.parts.size > 0
    if (!believed) return
    sent.forEach((state, i) => {
      if (state !== SHARD.sent) return
      this.#states[i] = SHARD.sent
      this.#settle(i, 'known')
    })
  }

  /** @param {Plan} plan */
  async #sendAll(plan) {
    const failed = new AbortController()
    let next = 0
    const sender = async () => {
      while (next < plan.shards.length && !failed.signal.aborted) {
        const i = next++
        if (this.#states[i] !== SHARD.sent) await this.#sendShard(plan, i)
      }
    }
    await Promise.all(Array.from({ length: this.#options.parallel ?? 3 }, () => sender().catch((err) => {
      failed.abort()
      throw err
    })))
  }

  /** @param {Plan} plan
   * @param {number} i */
  async #sendShard(plan, i) {
    const shard = this.#shards[i]
    if (this.#complete) return this.#settle(i, 'known')
    const body = plan.body(i)
    if (this.#lookUp && this.#held.has(await this.#archiveCID(plan, i, body))) {
      this.#mark(plan, i, SHARD.sent)
      return this.#settle(i, 'known')
    }
    this.#mark(plan, i, SHARD.begun)
    shard.state = 'sending'
    try {
      const status = await this.#try(async (signal) => {
        shard.tries++
        try {
          return await this.#service.put(body, { name: this.#name, signal, onprogress: (sent) => this.#moved(shard, sent) })
        } catch (err) {
          this.#moved(shard, 0)
          await this.#checkFiles(plan, i, err)
          throw err
        }
      })
      if (status.root !== plan.root) throw new PackError('root-mismatch', { root: plan.root, other: shownCID(status.root) })
      this.#heard(plan, status)
      this.#mine.add(i)
      this.#mark(plan, i, SHARD.sent)
      this.#settle(i, 'sent')
    } catch (err) {
      shard.state = 'waiting'
      throw err
    }
  }

  /** The CID of a shard's bytes.
   * @param {Plan} plan
   * @param {number} i
   * @param {Blob} body */
  async #archiveCID(plan, i, body) {
    await this.#gate.pass(this.#cancel.signal)
    try {
      this.#pool ??= new Pool(this.#options)
      return carCIDText(await this.#pool.blob(body))
    } catch (err) {
      throw err instanceof PieceError ? readError(err.cause, plan.files(i)[0]?.path ?? this.#name) : err
    }
  }

  /** Requests report only that they failed. If a file could not be read
   * as before, another attempt is useless.
   * @param {Plan} plan
   * @param {number} i
   * @param {unknown} err */
  async #checkFiles(plan, i, err) {
    if (!(err instanceof PackError) || err.code !== 'network') return
    for (const { file, path } of plan.files(i)) {
      try {
        await file.slice(0, 1).arrayBuffer()
      } catch (cause) {
        throw readError(cause, path)
      }
    }
  }

  /** Repeats a request until it succeeds, or can't succeed.
   * @template T
   * @param {(signal: AbortSignal) => Promise<T>} request
   * @returns {Promise<T>} */
  async #try(request) {
    const { tries = 8 } = this.#options
    const cancel = this.#cancel.signal
    for (let n = 1; ; ) {
      await this.#gate.pass(cancel)
      const signal = AbortSignal.any([cancel, this.#flight.signal])
      try {
        const hold = this.#holdUntil - performance.now()
        if (hold > 0) await sleep(hold, signal)
        await this.#pacer.turn(signal)
        return await request(signal)
      } catch (err) {
        if (cancel.aborted) throw cancel.reason
        if (err === paused) continue
        if (!(err instanceof PackError) || !err.retryable || n >= (err.code === 'changed' ? triesOfChanged : tries)) throw err
        await this.#pause(n++, err, signal)
      }
    }
  }

  /** The pause before the next attempt.
   * @param {number} n attempts so far
   * @param {PackError} err
   * @param {AbortSignal} signal */
  async #pause(n, err, signal) {
    const backoff = Math.min(maxBackoffSeconds, (this.#options.backoffSeconds ?? 1) * 2 ** (n - 1)) * (0.5 + Math.random())
    const seconds = Math.max(err.retryAfter, backoff)
    // The pause that the service asks for applies to all requests, our own only to this one.
    if (err.retryAfter > 0) this.#holdUntil = Math.max(this.#holdUntil, performance.now() + seconds * 1000)
    this.#emit(true)
    try {
      if (globalThis.navigator?.onLine === false) await online(signal)
      await sleep(seconds * 1000, signal)
    } catch (stopped) {
      if (stopped !== paused) throw stopped
    }
  }

  /** Asks until the service reports the DAG complete, or time is up.
   * @param {Plan} plan */
  async #isComplete(plan) {
    this.#enter('checking', this.#done, this.#total)
    const deadline = performance.now() + (this.#options.completeSeconds ?? 30) * 1000
    for (let wait = 250; !this.#complete; wait = Math.min(2 * wait, 8000)) {
      this.#heard(plan, await this.#try((signal) => this.#service.status(plan.root, signal)))
      if (this.#complete) break
      // A service that decides while it answers has now decided.
      if (performance.now() + wait > deadline) return false
      await sleep(wait, this.#cancel.signal)
    }
    return true
  }

  /** @param {Plan} plan
   * @param {Status|null} status */
  #heard(plan, status) {
    this.#held = status?.parts ?? new Set()
    if (status?.pinned && status.root === plan.root) this.#complete = true
  }

  /** @param {Plan} plan */
  #way(plan) {
    return { key: this.#identity.key, endpoint: this.#service.base, limit: plan.limit }
  }

  /** @param {Plan} plan
   * @param {number} i
   * @param {number} state */
  #mark(plan, i, state) {
    this.#states[i] = state
    const sentBytes = plan.shards.reduce((n, s, k) => n + (this.#states[k] === SHARD.sent ? s.size : 0), 0)
    void this.#remember((memory) => memory.keepSent(this.#way(plan), { shards: this.#states.slice(), sentBytes, totalBytes: plan.bytes }))
  }

  /** @param {number} i
   * @param {'sent'|'known'} state */
  #settle(i, state) {
    const shard = this.#shards[i]
    shard.state = state
    this.#moved(shard, shard.size)
    if (state === 'sent') this.#emit(true)
  }

  /** @param {ShardProgress} shard
   * @param {number} sent */
  #moved(shard, sent) {
    const now = Math.min(sent, shard.size)
    this.#done += now - shard.sent
    shard.sent = now
    this.#emit()
  }

  /** Calls the ledger. An error is only a warning, because an upload works without it.
   * @template T
   * @param {(memory: Memory) => Promise<T>} use
   * @returns {Promise<T|null>} */
  async #remember(use) {
    if (!this.#memory) return null
    try {
      return await use(this.#memory)
    } catch (cause) {
      this.#memory = null
      const detail = cause instanceof Error ? cause.message : String(cause)
      this.dispatchEvent(new CustomEvent('warning', { detail: new PackError('storage', { detail }, { cause }) }))
      return null
    }
  }

  /** @param {Phase} phase
   * @param {number} done
   * @param {number} total */
  #enter(phase, done, total) {
    this.#phase = phase
    this.#done = done
    this.#total = total
    for (const shard of this.#shards) shard.sent = phase === 'sending' ? 0 : shard.sent
    this.#rate.restart(done)
    this.#emit(true)
  }

  /** Reports the progress, but not too often.
   * @param {boolean} [now] */
  #emit(now = false) {
    this.#rate.sample(this.#done)
    const wait = this.#emitted + progressMs - performance.now()
    if (!now && wait > 0) {
      this.#timer ??= setTimeout(() => this.#emit(true), wait)
      return
    }
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#emitted = performance.now()
    this.dispatchEvent(new CustomEvent('progress', { detail: this.progress }))
  }

  /** @param {unknown} err */
  #asPackError(err) {
    if (err instanceof PackError) {
      if (err.code === 'changed' && !err.path) return this.#forgetChanged()
      return err
    }
    return new PackError('bug', { detail: String(err) }, { cause: err })
  }

  /** Handles bytes at the service that differ from the hashed ones: the digests are
   * useless now. */
  #forgetChanged() {
    void this.#remember((memory) => memory.forget(this.#identity.key))
    return new PackError('changed', { path: this.#name })
  }
}

/** Runs something unless another tab is doing so.
 * @template T
 * @param {string} what
 * @param {() => Promise<T>} run
 * @returns {Promise<T>} */
async function exclusively(what, run) {
  const locks = globalThis.navigator?.locks
  if (!locks) return run()
  return locks.request(what, { ifAvailable: true }, async (lock) => {
    if (!lock) throw new PackError('busy')
    return run()
  })
}

/** Waits until the machine is online, or the signal is aborted.
 * @param {AbortSignal} signal
 * @returns {Promise<void>} */
function online(signal) {
  return new Promise((resolve, reject) => {
    const done = new AbortController()
    globalThis.addEventListener('online', () => {
      done.abort()
      resolve()
    }, { once: true, signal: done.signal })
    signal.addEventListener('abort', () => {
      done.abort()
      reject(signal.reason)
    }, { once: true, signal: done.signal })
  })
}

/** A CID from a service, for display.
 * @param {string} cid */
function shownCID(cid) {
  return /^[A-Za-z0-9]{1,120}$/.test(cid) ? cid : '?'
}
