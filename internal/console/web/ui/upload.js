// The page of one upload.

import { Refused, json, lines, request } from './api.js'
import { ask, bar, copier, h, say } from './dom.js'
import { bytes, dateTime } from './format.js'
import { gatewayPath, subdomain } from './links.js'
import { preview } from './preview.js'
import { qr } from './qr.js'
import { state } from './state.js'
import { tree } from './tree.js'
import { words } from './words.js'

/** @typedef {import('./api.js').Detail} Detail */

/** @type {import('./app.js').Page} */
export async function uploadPage(main, { signal, listen, param }) {
  const w = words.upload
  const cid = decodeURIComponent(param)
  const path = 'uploads/' + encodeURIComponent(cid)
  main.append(h('p', null, h('a', { href: '#/' }, '← ', w.back)))

  /** @returns {Promise<Detail|null>} */
  async function load() {
    try {
      return await json(path, { signal })
    } catch (e) {
      if (e instanceof Refused && e.status === 404) return null
      throw e
    }
  }
  const first = await load()
  if (!first) {
    main.append(h('p', { class: 'problem' }, w.gone))
    return
  }
  let u = first
  const name = u.name || words.uploads.unnamed
  document.title = `${name} · ${words.title}`

  const badge = h('span', { class: 'badge', role: 'status' })
  const facts = h('dl', { class: 'facts' })
  const map = shardMap()
  main.append(
    h('div', { class: 'head' }, h('h1', { class: 'break' }, name), badge),
    h('p', { class: 'line' }, h('code', { class: 'break', id: 'cid' }, u.cid), copier(u.cid, words.copy, words.copied)))

  const content = h('section', { 'aria-labelledby': 'content-title' }, h('h2', { id: 'content-title' }, w.content))
  main.append(
    h('div', { class: 'cards' },
      h('section', { class: 'card', 'aria-labelledby': 'facts-title' }, h('h2', { id: 'facts-title' }, w.facts), facts),
      h('section', { class: 'card', 'aria-labelledby': 'links-title' }, h('h2', { id: 'links-title' }, w.links), links(u))),
    h('section', { class: 'card', 'aria-labelledby': 'shards-title' }, h('h2', { id: 'shards-title' }, w.shards), map.element),
    h('section', { class: 'card', 'aria-labelledby': 'verify-title' }, h('h2', { id: 'verify-title' }, w.verify), verifier(cid, signal)),
    content,
    h('div', { class: 'buttons end' }, h('button', { class: 'danger', id: 'delete', onclick: remove }, w.remove)))

  function update() {
    if (badge.dataset.state !== u.state) {
      badge.dataset.state = u.state
      badge.replaceChildren(state(u.state))
    }
    /** @type {[string, string][]} */
    const list = [
      [w.size, u.size === null ? w.sizeUnknown : bytes(u.size)],
      [w.date, dateTime(u.created)],
      [w.kind, [words.kinds[u.kind] ?? u.kind, u.type === 'application/car' ? '' : u.type].filter(Boolean).join(', ')],
      [w.pin, (w.pins[u.state] ?? u.state) + (u.reason ? `: ${u.reason}` : '')],
    ]
    if (u.key) list.splice(2, 0, [w.key, u.key])
    const text = JSON.stringify(list)
    if (facts.dataset.text !== text) {
      facts.dataset.text = text
      facts.replaceChildren(...list.flatMap(([k, v]) => [h('dt', null, k), h('dd', { class: 'break' }, v)]))
    }
    map.update(u)
  }
  update()

  let busy = false
  let again = false
  /** @param {string} why */
  async function refresh(why) {
    if (why === 'look' && u.state === 'complete') return
    if (busy) {
      again = true
      return
    }
    busy = true
    try {
      const now = await load()
      if (!now) return
      const was = u.state
      u = now
      update()
      if (was !== u.state) await fill()
    } finally {
      busy = false
      if (again) {
        again = false
        refresh('change').catch(() => {})
      }
    }
  }
  listen((why) => { refresh(why).catch(() => {}) })

  let filling = new AbortController()
  signal.addEventListener('abort', () => filling.abort())
  async function fill() {
    filling.abort()
    filling = new AbortController()
    content.replaceChildren(content.firstElementChild ?? '')
    await tree(content, u.cid, name, filling.signal, (box, title, at, size) => preview(box, title, at, size, filling.signal))
  }

  async function remove() {
    if (!await ask(w.removeTitle, w.removeText(name), w.removeYes, words.cancel, undefined, true)) return
    try {
      await request('api/' + encodeURIComponent(cid), { method: 'DELETE' })
      location.hash = '#/'
    } catch (e) {
      main.append(h('p', { class: 'problem', role: 'alert' }, /** @type {Error} */ (e).message))
    }
  }
  await fill()
}

/** @param {Detail} u */
function links(u) {
  const w = words.upload
  const here = new URL(gatewayPath(u.cid), location.href).href
  /** @type {[string, string|null, boolean][]} */
  const all = [[w.gateway, here, true], [w.subdomain, subdomain(u.cid), true], [w.native, 'ipfs://' + u.cid, false], [w.archive, here + '?format=car', true]]
  const list = h('ul', { class: 'links' })
  for (const [label, url, go] of all) {
    if (!url) continue
    const code = h('div', { class: 'qr', hidden: true })
    const show = h('button', { class: 'small', 'aria-expanded': 'false' }, w.qr)
    show.addEventListener('click', () => {
      code.hidden = !code.hidden
      show.setAttribute('aria-expanded', String(!code.hidden))
      if (!code.firstChild) code.append(qr(url))
    })
    const text = go ? h('a', { href: url, target: '_blank', rel: 'noopener noreferrer', class: 'url' }, url) : h('span', { class: 'url' }, url)
    list.append(h('li', null, h('span', { class: 'label' }, label), text,
      h('span', { class: 'buttons' }, copier(url, words.copy, words.copied), show), code))
  }
  return list
}

const maxSquares = 1000
const maxListed = 5000

/** A square for each shard. */
function shardMap() {
  const w = words.upload
  const text = h('p', { role: 'status' })
  const level = bar(w.shards)
  const squares = h('div', { class: 'map', 'aria-hidden': 'true' })
  const list = h('ol', { class: 'shards' })
  const details = h('details', null, h('summary', null, w.list), list)
  /** @type {Detail|null} */
  let last = null
  details.addEventListener('toggle', () => fillList())

  function fillList() {
    if (!details.open || !last) return
    const had = list.childElementCount
    for (const p of last.shards.slice(had, maxListed)) {
      list.append(h('li', null, h('code', { class: 'break' }, p.cid), h('span', { class: 'muted' },
        [bytes(p.size), p.key, dateTime(p.created), p.damaged ? w.shardDamaged : ''].filter(Boolean).join(' · '))))
    }
  }

  return {
    element: h('div', null, text, level.element, squares, details),
    /** @param {Detail} u */
    update(u) {
      const damaged = u.shards.filter((p) => p.damaged).length
      const mean = u.shardCount ? u.shardBytes / u.shardCount : 0
      const missing = u.state === 'complete' || damaged ? 0 : u.size && mean ? Math.max(1, Math.round((u.size - u.shardBytes) / mean)) : -1
      say(text, [w.held(u.shardCount - damaged, bytes(u.shardBytes)), damaged ? w.damaged(damaged) : '',
        missing > 0 ? w.missing(missing) : missing < 0 ? w.missingSome : ''].filter(Boolean).join(', '))
      level.element.hidden = u.state === 'complete' || !u.size
      if (u.size) level.set(Math.min(u.shardBytes / u.size, 0.99))
      const open = Math.min(missing < 0 ? 1 : missing, maxSquares)
      const shown = u.shards.slice(0, maxSquares)
      // Squares keep their meaning: only those at the end come and go.
      while (squares.childElementCount > shown.length + open) squares.lastElementChild?.remove()
      while (squares.childElementCount < shown.length + open) squares.append(h('i'))
      shown.forEach((p, i) => mark(squares.children[i], p.damaged ? 'damaged' : 'held',
        p.damaged ? `${p.cid}\n${w.shardDamaged}` : w.shard(p.cid, bytes(p.size), p.key, dateTime(p.created))))
      for (let i = 0; i < open; i++) mark(squares.children[shown.length + i], 'missing', w.shardMissing)
      last = u
      fillList()
    },
  }
}

/** @param {Element} e @param {string} kind @param {string} title */
function mark(e, kind, title) {
  if (e.className !== kind) e.className = kind
  if (e.getAttribute('title') !== title) e.setAttribute('title', title)
}

/** @param {string} cid @param {AbortSignal} signal */
function verifier(cid, signal) {
  const w = words.upload
  const result = h('p', { role: 'status', id: 'verified' }, w.verifyHint)
  const level = bar(w.verify)
  level.element.classList.add('unused')
  const stop = h('button', { hidden: true }, words.cancel)
  /** @type {HTMLButtonElement[]} */
  const starts = []

  /** @param {string} how */
  async function run(how) {
    const stopper = new AbortController()
    stop.onclick = () => stopper.abort()
    for (const b of starts) b.disabled = true
    stop.hidden = false
    level.element.classList.remove('unused')
    level.set(0)
    result.className = ''
    result.textContent = w.verifying
    try {
      const res = await request(`verify/${encodeURIComponent(cid)}?how=${how}`, { method: 'POST', signal: AbortSignal.any([signal, stopper.signal]) })
      let ended = false
      for await (const line of lines(res)) {
        const p = JSON.parse(line)
        if (p.total) level.set(p.done / p.total)
        if (p.sound === undefined) continue
        ended = true
        result.className = p.sound ? 'good' : 'problem'
        result.textContent = !p.sound ? p.reason : how === 'full' ? w.sound(bytes(p.done)) : w.sampled(p.done)
        if (p.sound) level.set(1)
      }
      if (!ended) throw new Error(words.lost)
    } catch (e) {
      if (signal.aborted) return
      result.className = stopper.signal.aborted ? '' : 'problem'
      result.textContent = stopper.signal.aborted ? w.verifyHint : /** @type {Error} */ (e).message
    }
    for (const b of starts) b.disabled = false
    stop.hidden = true
  }
  starts.push(h('button', { id: 'sample', onclick: () => run('sample') }, w.sample), h('button', { id: 'full', onclick: () => run('full') }, w.full))
  return h('div', null, result, level.element, h('div', { class: 'buttons' }, starts, stop))
}
