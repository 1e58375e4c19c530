// What the service does and stores, for its operator.

import { bytes, number, rate } from './format.js'
import { h, s, say } from './dom.js'
import { json } from './api.js'
import { words } from './words.js'

/** @typedef {{time: number, received: number, sent: number, requests: number, refused: number, failed: number, stored: number, shards: number, damaged: number, lost: number, free: number}} Sample */

const every = 2000

/** @type {import('./app.js').Page} */
export async function servicePage(main, { signal }) {
  const w = words.service
  const each = (/** @type {(x: Sample) => number} */ f) => (/** @type {Sample[]} */ all) => all.slice(1).map((x, i) => {
    const seconds = (x.time - all[i].time) / 1000
    return { time: x.time, value: seconds > 0 ? Math.max(0, f(x) - f(all[i])) / seconds : 0 }
  })
  const perSecond = (/** @type {number} */ n) => number(n) + w.perSecond
  const charts = [
    chart('received', w.received, each((x) => x.received), rate),
    chart('sent', w.sent, each((x) => x.sent), rate),
    chart('requests', w.requests, each((x) => x.requests), perSecond),
    chart('errors', w.errors, each((x) => x.refused + x.failed), perSecond),
    chart('stored', w.disk, (all) => all.map((x) => ({ time: x.time, value: x.stored })), bytes),
  ]
  const facts = h('dl', { class: 'facts' })
  const health = h('p', { role: 'status' })
  main.append(h('div', { class: 'head' }, h('h1', null, w.title)), health,
    h('div', { class: 'cards charts' }, charts.map((c) => c.element), h('section', { class: 'card' }, facts)),
    h('p', { class: 'muted' }, w.hour))

  async function load() {
    /** @type {{samples: Sample[]}} */
    const { samples } = await json('figures', { signal })
    // This sample is close to the last one, and a rate over so short a time jumps.
    if (samples.length > 2 && samples[samples.length - 1].time - samples[samples.length - 2].time < 1500) samples.splice(-2, 1)
    for (const c of charts) c.update(samples)
    const now = samples[samples.length - 1]
    const list = [
      [w.shards, now.shards.toLocaleString('en')], [w.disk, bytes(now.stored)], [w.free, now.free < 0 ? w.freeUnknown : bytes(now.free)],
      [w.damaged, now.damaged.toLocaleString('en')], [w.lost, now.lost.toLocaleString('en')], [w.errors, w.errorsOf(now.refused, now.failed)],
    ]
    if (facts.childElementCount === 0) facts.append(...list.flatMap(([k]) => [h('dt', null, k), h('dd')]))
    list.forEach(([, v], i) => say(facts.children[2 * i + 1], v))
    const harmed = now.damaged + now.lost > 0
    health.className = harmed ? 'problem' : 'good'
    say(health, harmed ? w.unhealthy : w.healthy)
  }
  await load()
  const timer = setInterval(() => { if (!document.hidden) load().catch(() => {}) }, every)
  signal.addEventListener('abort', () => clearInterval(timer))
}

const width = 300
const height = 70

/** A small chart of one value over time.
 * @param {string} id @param {string} name
 * @param {(all: Sample[]) => {time: number, value: number}[]} values @param {(n: number) => string} format */
function chart(id, name, values, format) {
  const line = s('path', { class: 'line', fill: 'none' })
  const area = s('path', { class: 'area' })
  const svg = s('svg', { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', role: 'img', 'aria-label': name }, area, line)
  const now = h('strong')
  const peak = h('span', { class: 'muted' })
  return {
    element: h('section', { class: 'card chart', id: 'chart-' + id }, h('h2', null, name), h('p', null, now, ' ', peak), svg),
    /** @param {Sample[]} all */
    update(all) {
      const points = values(all)
      const last = points[points.length - 1]
      const max = Math.max(0, ...points.map((p) => p.value))
      say(now, last ? format(last.value) : '–')
      say(peak, words.service.peak(format(max)))
      svg.setAttribute('aria-label', words.service.chart(name, format(last?.value ?? 0), format(max)))
      if (points.length < 2) return
      const from = points[0].time
      const span = last.time - from || 1
      const d = points.map((p, i) => `${i ? 'L' : 'M'}${(((p.time - from) / span) * width).toFixed(1)} ${(height - 2 - (max ? p.value / max : 0) * (height - 6)).toFixed(1)}`).join('')
      line.setAttribute('d', d)
      area.setAttribute('d', `${d}L${width} ${height}L0 ${height}Z`)
    },
  }
}
