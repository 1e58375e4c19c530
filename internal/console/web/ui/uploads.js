// The list of uploads, of any length. Only visible rows are in the page.

import { Rows, h, say } from './dom.js'
import { bytes, date, dateTime, shortCID } from './format.js'
import { json } from './api.js'
import { state } from './state.js'
import { words } from './words.js'

/** @typedef {import('./api.js').Item} Item */

const pageSize = 200

/** The last search, for when people come back. */
const wanted = { search: '', state: '', until: '' }

export function forgetWanted() {
  Object.assign(wanted, { search: '', state: '', until: '' })
}

/** @type {import('./app.js').Page} */
export async function uploadsPage(main, { signal, listen }) {
  const w = words.uploads
  /** @type {Item[]} */
  let items = []
  let complete = false // all are loaded
  let generation = 0
  /** @type {Promise<void>|null} */
  let loading = null

  const search = h('input', { type: 'search', placeholder: w.search, 'aria-label': w.search, spellcheck: 'false' })
  search.value = wanted.search
  const states = h('select', { 'aria-label': w.state },
    h('option', { value: '' }, w.all), ['complete', 'incomplete', 'failed'].map((s) => h('option', { value: s }, words.states[s])))
  states.value = wanted.state
  const until = h('input', { type: 'date' })
  until.value = wanted.until
  const total = h('span', { class: 'muted', role: 'status' })
  const list = h('div', { role: 'list', 'aria-label': w.title })
  const empty = h('div', { class: 'empty', hidden: true })
  main.append(
    h('div', { class: 'head' }, h('h1', null, w.title), total),
    h('div', { class: 'filters' }, search, states, h('label', null, w.until, ' ', until)),
    h('div', { class: 'columns upload-row', 'aria-hidden': 'true' },
      h('span', null, w.columns.name), h('span', { class: 'size' }, w.columns.size), h('span', { class: 'state-cell' }, w.columns.state), h('span', { class: 'date' }, w.columns.date)),
    list, empty)

  const rows = new Rows(list, 48, (i) => row(items[i], i), (_, last) => { if (last > items.length - 60) more() })
  signal.addEventListener('abort', () => rows.stop())
  list.addEventListener('keydown', (event) => rows.key(event))

  /** @param {Item} u @param {number} i */
  function row(u, i) {
    return h('a', {
      class: 'upload-row', href: '#/upload/' + encodeURIComponent(u.cid), role: 'listitem', 'aria-posinset': i + 1,
      'aria-setsize': complete ? items.length : -1,
    },
    h('span', { class: 'name' }, h('span', null, u.name || w.unnamed), h('code', null, shortCID(u.cid))),
    h('span', { class: 'size' }, u.size === null ? '' : bytes(u.size)),
    h('span', { class: 'state-cell' }, state(u.state)),
    h('time', { class: 'date', title: dateTime(u.created) }, date(u.created)))
  }

  /** @param {number} [before] @returns {Promise<{uploads: Item[], count: number}>} */
  function page(before) {
    const q = new URLSearchParams({ limit: String(pageSize) })
    if (wanted.search) q.set('search', wanted.search)
    if (wanted.state) q.set('state', wanted.state)
    if (!before && wanted.until) before = (new Date(wanted.until + 'T00:00').getTime() + 86_400_000) * 1000 - 1
    if (before) q.set('before', String(before))
    return json('uploads?' + q, { signal })
  }

  function more() {
    if (complete || loading) return
    const mine = generation
    loading = (async () => {
      try {
        const last = items.at(-1)
        const next = await page(last?.order)
        if (mine !== generation) return
        const had = new Set(items.slice(-pageSize).map((u) => u.cid))
        const fresh = next.uploads.filter((u) => !had.has(u.cid))
        complete = fresh.length === 0 || next.count <= next.uploads.length
        items.push(...fresh)
        rows.reset(items.length)
      } finally {
        if (mine === generation) loading = null
      }
    })()
    loading.catch(() => {}) // the next scroll tries again
  }

  async function first() {
    const mine = ++generation
    loading = null
    const p = await page()
    if (mine !== generation) return
    items = p.uploads
    complete = p.count <= items.length
    show(p.count)
    rows.reset(items.length)
  }

  /** @param {number} n */
  function show(n) {
    say(total, w.total(n))
    const filtered = wanted.search || wanted.state || wanted.until
    empty.hidden = n > 0
    if (n === 0) {
      empty.replaceChildren(h('p', null, filtered ? w.noMatch : w.none), filtered ? '' : h('a', { class: 'button primary', href: '#/add' }, w.first))
    }
  }

  // New uploads go to the top, and changed ones stay in their place.
  let refreshing = false
  let again = false
  async function refresh() {
    if (refreshing) {
      again = true
      return
    }
    refreshing = true
    try {
      const mine = generation
      const p = await page()
      if (mine !== generation) return
      const fresh = new Set(p.uploads.map((u) => u.cid))
      const end = p.uploads.at(-1)
      const whole = p.count <= p.uploads.length
      const rest = whole ? [] : items.filter((u) => !fresh.has(u.cid) && u.order < (end?.order ?? 0))
      const before = JSON.stringify(items.slice(0, p.uploads.length))
      items = [...p.uploads, ...rest]
      if (whole) complete = true
      show(p.count)
      if (before !== JSON.stringify(p.uploads) || rows.count !== items.length) rows.reset(items.length)
    } finally {
      refreshing = false
      if (again) {
        again = false
        refresh().catch(() => {})
      }
    }
  }

  let timer = 0
  search.addEventListener('input', () => {
    clearTimeout(timer)
    timer = setTimeout(() => { wanted.search = search.value.trim(); first().catch(() => {}) }, 200)
  })
  states.addEventListener('change', () => { wanted.state = states.value; first().catch(() => {}) })
  until.addEventListener('change', () => { wanted.until = until.value; first().catch(() => {}) })
  await first()
  listen(() => { refresh().catch(() => {}) })
}
