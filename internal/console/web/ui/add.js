// Uploading. The packing engine continues while other pages are shown.

import { base, headers } from './api.js'
import { bar, h, say } from './dom.js'
import { bytes, duration, rate } from './format.js'
import { words } from './words.js'

/** @typedef {typeof import('../pack/index.js')} Pack
 * @typedef {import('../pack/index.js').Upload} Upload
 * @typedef {import('../pack/upload.js').Progress} Progress
 * @typedef {import('../pack/tree.js').Input} Input
 * @typedef {import('../pack/ledger.js').Ledger} Ledger */

/** An upload that began on this page.
 * @typedef {object} Transfer
 * @property {Input} input
 * @property {boolean} limited whether the key has a rate limit
 * @property {Upload|null} upload null until its turn comes
 * @property {'queued'|'running'|'done'|'failed'} state
 * @property {Progress|null} progress
 * @property {string} message
 * @property {boolean} known the service already had everything
 * @property {(() => void)|null} changed */

/** @type {Transfer[]} */
const transfers = []
/** @type {(() => void)[]} */
const watchers = []

/** How many uploads run at a time; each has several shards in flight. */
const atOnce = 2

export const running = () => transfers.filter((t) => t.state === 'running' || t.state === 'queued').length

/** @param {() => void} f called when the number may have changed */
export function whenRunning(f) {
  watchers.push(f)
}

/** @type {Promise<{pack: Pack, ledger: Ledger|null}>|null} */
let loaded = null

/** Loads the engine when it is needed, so that the first page loads quickly. */
function engine() {
  loaded ??= (async () => {
    // @ts-expect-error a separate bundle, beside this one
    const pack = /** @type {Pack} */ (await import('./pack.js'))
    const ledger = await pack.Ledger.open().catch(() => null) // without it, a closed tab starts over
    return { pack, ledger }
  })()
  loaded.catch(() => { loaded = null })
  return loaded
}

export function stopAll() {
  for (const t of transfers) t.upload?.cancel()
  transfers.length = 0
  for (const f of watchers) f()
}

export async function forgetAll() {
  const { ledger } = await engine()
  await ledger?.clear()
}

function next() {
  for (const t of transfers) {
    if (transfers.filter((o) => o.state === 'running').length >= atOnce) break
    if (t.state === 'queued') run(t)
  }
  for (const f of watchers) f()
}

/** @param {Transfer} t */
async function run(t) {
  t.state = 'running'
  t.message = ''
  try {
    const { pack, ledger } = await engine()
    const up = new pack.Upload(t.input, {
      endpoint: base + 'api', credentials: 'same-origin', headers, ledger, ...(t.limited ? {} : { rate: null }),
    })
    t.upload = up
    const told = () => {
      t.progress = up.progress
      t.changed?.()
    }
    up.addEventListener('progress', told)
    const result = await up.run()
    t.state = 'done'
    t.known = result.sentShards === 0
  } catch (e) {
    t.state = 'failed'
    t.message = /** @type {any} */ (e).code === 'cancelled' ? words.add.cancelled : /** @type {Error} */ (e).message
  }
  if (t.upload) t.progress = t.upload.progress
  t.changed?.()
  next()
}

/** @type {import('./app.js').Page} */
export async function addPage(main, { signal, session }) {
  const w = words.add
  main.append(h('div', { class: 'head' }, h('h1', null, w.title)))
  const { pack, ledger } = await engine() // dropped files must be read at once
  if (signal.aborted) return
  const problem = h('p', { class: 'problem', role: 'alert', hidden: true })
  const files = h('input', { type: 'file', multiple: true, id: 'files', class: 'away', tabindex: -1, 'aria-label': w.files })
  const folder = h('input', { type: 'file', webkitdirectory: true, id: 'folder', class: 'away', tabindex: -1, 'aria-label': w.folder })
  const zone = h('div', { class: 'drop' },
    h('p', { class: 'big' }, w.drop), h('p', { class: 'muted' }, w.or),
    h('div', { class: 'buttons' },
      h('button', { class: 'primary', onclick: () => files.click() }, w.files), h('button', { onclick: () => folder.click() }, w.folder)),
    h('p', { class: 'muted' }, w.hint), files, folder)
  const list = h('ul', { class: 'transfers' })
  const here = h('section', { 'aria-labelledby': 'running-title', hidden: true }, h('h2', { id: 'running-title' }, w.running), list)
  const pendingList = h('ul', { class: 'transfers' })
  const pending = h('section', { 'aria-labelledby': 'pending-title', hidden: true },
    h('h2', { id: 'pending-title' }, w.pending), h('p', { class: 'muted' }, w.pendingHint), pendingList)
  main.append(zone, problem, here, pending)

  /** @param {Promise<Input[]>|Input[]} taken */
  async function take(taken) {
    problem.hidden = true
    /** @type {Input[]} */
    let inputs
    try {
      inputs = await taken
    } catch (e) {
      problem.textContent = e instanceof Error && e.message ? e.message : w.unreadable
      problem.hidden = false
      return
    }
    if (inputs.length === 0) {
      problem.textContent = w.nothing
      problem.hidden = false
      return
    }
    for (const input of inputs) {
      transfers.unshift({
        input, limited: session.rateLimited, upload: null, state: 'queued', progress: null, message: '', known: false, changed: null,
      })
    }
    show()
    next()
  }

  for (const input of [files, folder]) {
    input.addEventListener('change', () => {
      if (input.files?.length) take(pack.fromPicker(input.files))
      input.value = ''
    })
  }
  // The browser must not open a dropped file in place of the page, wherever it lands.
  let over = 0
  addEventListener('dragenter', (event) => { event.preventDefault(); zone.classList.toggle('over', ++over > 0) }, { signal })
  addEventListener('dragleave', () => zone.classList.toggle('over', --over > 0), { signal })
  addEventListener('dragover', (event) => event.preventDefault(), { signal })
  addEventListener('drop', (event) => {
    event.preventDefault()
    over = 0
    zone.classList.remove('over')
    if (event.dataTransfer) take(pack.fromDrop(event.dataTransfer))
  }, { signal })

  /** @type {Map<Transfer, HTMLElement>} */
  const shown = new Map()
  function show() {
    here.hidden = transfers.length === 0
    for (const t of transfers) if (!shown.has(t)) shown.set(t, card(t, remove))
    for (const [t, e] of shown) if (!transfers.includes(t)) { e.remove(); shown.delete(t) }
    transfers.forEach((t, i) => {
      const e = shown.get(t)
      if (e && list.children[i] !== e) list.insertBefore(e, list.children[i] ?? null)
    })
  }

  /** @param {Transfer} t */
  function remove(t) {
    const i = transfers.indexOf(t)
    if (i >= 0) transfers.splice(i, 1)
    show()
  }
  signal.addEventListener('abort', () => { for (const t of transfers) t.changed = null })

  async function remind() {
    if (!ledger || signal.aborted) return
    const busy = new Set(transfers.filter((t) => t.state !== 'done').map((t) => t.input.name))
    const all = (await ledger.list()).filter((p) => !busy.has(p.name))
    pending.hidden = all.length === 0
    pendingList.replaceChildren(...all.map((p) => {
      const level = bar(p.name)
      level.set(p.totalBytes ? p.sentBytes / p.totalBytes : 0)
      return h('li', { class: 'transfer' },
        h('div', { class: 'transfer-head' }, h('strong', { class: 'break' }, p.name),
          h('span', { class: 'muted' }, p.kind === 'directory' ? w.files_(p.files) + ', ' : '', p.totalBytes ? w.of(bytes(p.sentBytes), bytes(p.totalBytes)) : bytes(p.bytes)),
          h('button', { class: 'small', onclick: () => ledger.forget(p.key) }, w.forget)),
        level.element)
    }))
  }
  const recall = () => { remind().catch(() => {}) }
  ledger?.addEventListener('change', recall)
  signal.addEventListener('abort', () => ledger?.removeEventListener('change', recall))
  watchers.push(recall)
  signal.addEventListener('abort', () => watchers.splice(watchers.indexOf(recall), 1))
  show()
  recall()
}

const maxSquares = 600

/** @param {Transfer} t @param {(t: Transfer) => void} remove */
function card(t, remove) {
  const w = words.add
  const level = bar(t.input.name)
  const step = h('span', { role: 'status' })
  const figures = h('span', { class: 'muted figures' })
  const cid = h('code', { class: 'break' })
  const squares = h('div', { class: 'map', 'aria-hidden': 'true' })
  const shards = h('span', { class: 'muted' })
  const pause = h('button', { class: 'small', onclick: () => (t.progress?.paused ? t.upload?.resume() : t.upload?.pause()) })
  const stop = h('button', { class: 'small', onclick: () => {
    if (t.upload) t.upload.cancel()
    else remove(t)
  } }, w.stop)
  const retry = h('button', { class: 'small', onclick: () => {
    t.state = 'queued'
    t.upload = null
    t.progress = null
    update()
    next()
  } }, w.retry)
  const go = h('a', { class: 'button small' }, w.show)
  const dismiss = h('button', { class: 'small', onclick: () => remove(t) }, w.dismiss)
  const all = 'entries' in t.input ? t.input.entries.filter((e) => e.file).length : 0

  function update() {
    const p = t.progress
    const active = t.state === 'running'
    say(pause, p?.paused ? w.resume : w.pause)
    pause.hidden = !active || p?.phase === 'checking'
    stop.hidden = !active && t.state !== 'queued'
    retry.hidden = t.state !== 'failed'
    dismiss.hidden = t.state !== 'done' && t.state !== 'failed'
    go.hidden = !p?.root || t.state !== 'done'
    if (p?.root) {
      go.href = '#/upload/' + p.root
      say(cid, p.root)
    }
    step.className = { done: 'good', failed: 'problem', running: '', queued: 'muted' }[t.state]
    const phase = p?.phase === 'sending' ? w.sending : p?.phase === 'checking' ? w.checking : w.hashing
    say(step, t.state === 'done' ? (t.known ? w.known : w.done) : t.state === 'failed' ? t.message
      : p?.paused ? w.paused : p?.waiting && active ? `${phase} · ${w.waiting(duration(p.waiting))}` : t.state === 'queued' ? words.states.queued : phase)
    level.set(t.state === 'done' ? 1 : p?.total ? p.done / p.total : 0)
    const parts = []
    if (all) parts.push(w.files_(all))
    if (p && t.state !== 'done') {
      parts.push(w.of(bytes(p.done), bytes(p.total)))
      if (active && p.rate > 0 && !p.paused) parts.push(rate(p.rate))
      if (active && p.left !== null && !p.paused && p.phase !== 'checking') parts.push(w.left(duration(p.left)))
    } else if (p) {
      parts.push(bytes(p.total))
    }
    say(figures, parts.join(' · '))
    const list = p?.shards ?? []
    squares.hidden = list.length < 2
    const states = list.slice(0, maxSquares)
    while (squares.childElementCount > states.length) squares.lastElementChild?.remove()
    while (squares.childElementCount < states.length) squares.append(h('i'))
    states.forEach((x, i) => {
      const e = /** @type {HTMLElement} */ (squares.children[i])
      const kind = { waiting: 'missing', sending: 'sending', sent: 'held', known: 'held known' }[x.state]
      if (e.className !== kind) e.className = kind
      const title = `${bytes(x.size)}, ${w.shardStates[x.state]}`
      if (e.title !== title) e.title = title
    })
    const held = list.filter((x) => x.state === 'sent' || x.state === 'known').length
    say(shards, list.length ? w.flight(list.filter((x) => x.state === 'sending').length, held, list.length) : '')
  }
  t.changed = update
  update()
  return h('li', { class: 'transfer' },
    h('div', { class: 'transfer-head' }, h('strong', { class: 'break' }, t.input.name), h('span', { class: 'buttons' }, pause, stop, retry, go, dismiss)),
    level.element,
    h('div', { class: 'transfer-head' }, step, figures),
    squares, h('div', { class: 'transfer-head' }, shards, cid))
}
