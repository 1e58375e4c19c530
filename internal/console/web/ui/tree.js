// The files of an upload, loaded when they are shown.

import { Rows, h } from './dom.js'
import { bytes } from './format.js'
import { gatewayPath } from './links.js'
import { json } from './api.js'
import { words } from './words.js'

/** @typedef {import('./api.js').Entry} Entry
 * @typedef {import('./api.js').Tree} Tree */

/** A line of the tree: an entry, or a place for entries that are not loaded yet.
 * @typedef {{depth: number, names: string[], entry: Entry|null, open: boolean, parent: Line|null, cid: string, next: number, busy: boolean, failed: boolean}} Line */

/** @typedef {(box: HTMLElement, name: string, path: string, size: number) => void} Preview */

const pageSize = 500

/** Shows what is below a root: a preview of a file, or a tree.
 * @param {HTMLElement} box @param {string} root @param {string} name @param {AbortSignal} signal @param {Preview} preview */
export async function tree(box, root, name, signal, preview) {
  const w = words.tree
  /** @param {string} cid @param {number} offset @returns {Promise<Tree>} */
  const load = (cid, offset) => json(`nodes/${encodeURIComponent(cid)}?offset=${offset}&limit=${pageSize}`, { signal })

  const top = await load(root, 0)
  if (signal.aborted) return
  if (top.kind === 'missing') {
    box.append(h('p', { class: 'muted' }, w.missing))
    return
  }
  if (!top.entries) {
    const here = h('div', { class: 'preview' })
    box.append(here)
    preview(here, name, gatewayPath(root) + '?filename=' + encodeURIComponent(name), top.size)
    return
  }
  if (top.entries.length === 0) {
    box.append(h('p', { class: 'muted' }, top.kind === 'directory' ? w.empty : w.other))
    return
  }

  const counted = h('p', { class: 'muted', role: 'status' })
  const list = h('div', { role: 'tree', 'aria-label': w.label, class: 'tree' })
  const side = h('div', { class: 'preview beside', hidden: true })
  box.append(counted, h('div', { class: 'browse' }, list, side))

  /** @type {Line[]} */
  let all = []
  /** @type {Line|null} */
  let chosen = null
  let active = 0 // the row that Tab focuses
  const rows = new Rows(list, 34, (i) => row(i), (first, last) => {
    for (let i = first; i <= last && i < all.length; i++) if (!all[i].entry && !all[i].failed) more(all[i])
  })
  signal.addEventListener('abort', () => rows.stop())

  /** @param {Tree} page @param {Line|null} parent @param {string} cid @param {number} offset @returns {Line[]} */
  function linesOf(page, parent, cid, offset) {
    const depth = parent ? parent.depth + 1 : 0
    const base = { depth, open: false, parent, busy: false, failed: false, next: 0 }
    /** @type {Line[]} */
    const out = (page.entries ?? []).map((entry) => ({ ...base, names: [...(parent?.names ?? []), entry.name], entry, cid: entry.cid }))
    if (page.next !== null) out.push({ ...base, names: [], entry: null, cid, next: page.next })
    else if (offset === 0 && out.length === 0) out.push({ ...base, names: [], entry: { name: w.empty, cid: '', kind: 'note', size: 0 }, cid: '' })
    return out
  }

  function tell() {
    const n = all.filter((l) => l.depth === 0 && l.entry).length
    counted.textContent = w.loaded(n, all.some((l) => l.depth === 0 && !l.entry))
  }

  /** @param {Line} at the line to replace */
  async function more(at) {
    if (at.busy) return
    at.busy = true
    try {
      const page = await load(at.cid, at.next)
      const i = all.indexOf(at)
      if (i < 0 || signal.aborted) return
      all = [...all.slice(0, i), ...linesOf(page, at.parent, at.cid, at.next), ...all.slice(i + 1)]
      tell()
      rows.reset(all.length)
    } catch {
      at.failed = true
      rows.refresh(all.indexOf(at))
    } finally {
      at.busy = false
    }
  }

  /** @param {number} i */
  async function toggle(i) {
    const line = all[i]
    if (!line?.entry || line.busy) return
    if (line.open) {
      line.open = false
      let end = i + 1
      while (end < all.length && all[end].depth > line.depth) end++
      all.splice(i + 1, end - i - 1)
    } else {
      line.busy = true
      try {
        const page = await load(line.entry.cid, 0)
        const at = all.indexOf(line)
        if (at < 0 || signal.aborted) return
        line.open = true
        all = [...all.slice(0, at + 1), ...linesOf(page, line, line.entry.cid, 0), ...all.slice(at + 1)]
      } finally {
        line.busy = false
      }
    }
    rows.reset(all.length)
  }

  /** @param {number} i */
  function act(i) {
    const line = all[i]
    if (!line) return
    if (!line.entry) {
      line.failed = false
      more(line)
      return
    }
    const { kind, size } = line.entry
    if (kind === 'directory' || kind === 'other') {
      toggle(i).catch(() => {})
      return
    }
    if (kind !== 'file') return
    const before = chosen ? all.indexOf(chosen) : -1
    chosen = line
    rows.refresh(before)
    rows.refresh(i)
    side.hidden = false
    side.replaceChildren()
    // A link by a name that is not UTF-8 does not work; one by CID does.
    const path = line.entry.odd || hasOdd(line) ? gatewayPath(line.entry.cid) + '?filename=' + encodeURIComponent(line.entry.name) : gatewayPath(root, line.names)
    preview(side, line.entry.name, path, size)
  }

  /** @param {number} i */
  function row(i) {
    const line = all[i]
    if (!line.entry) return h('div', { role: 'treeitem', tabindex: i === active ? 0 : -1, class: 'muted' }, line.failed ? w.failed : w.loading)
    const e = line.entry
    const folder = e.kind === 'directory' || e.kind === 'other'
    const detail = { missing: w.missing, other: w.other, symlink: '→', note: '' }[e.kind] ?? (folder ? '' : bytes(e.size))
    const out = h('div', {
      role: 'treeitem', tabindex: i === active ? 0 : -1, class: 'line-' + e.kind, 'aria-level': line.depth + 1,
      'aria-expanded': folder ? String(line.open) : null, 'aria-selected': String(line === chosen), title: e.name,
    },
    h('span', { class: 'sign', 'aria-hidden': 'true' }, folder ? (line.open ? '▾' : '▸') : ''),
    h('span', { class: 'entry-name' }, e.name), h('span', { class: 'size' }, detail))
    out.style.paddingInlineStart = 8 + Math.min(line.depth, 20) * 18 + 'px'
    return out
  }

  /** @param {Event} event */
  const at = (event) => rows.indexOf(event.target)
  list.addEventListener('click', (event) => { const i = at(event); if (i >= 0) act(i) })
  list.addEventListener('focusin', (event) => {
    const i = at(event)
    if (i < 0 || i === active) return
    rows.shown.get(active)?.setAttribute('tabindex', '-1')
    active = i
    rows.shown.get(i)?.setAttribute('tabindex', '0')
  })
  list.addEventListener('keydown', (event) => {
    const i = rows.focused()
    const line = all[i]
    if (!line) return
    const folder = line.entry?.kind === 'directory' || line.entry?.kind === 'other'
    if (event.key === 'Enter' || event.key === ' ') act(i)
    else if (event.key === 'ArrowRight' && folder && !line.open) toggle(i).catch(() => {})
    else if (event.key === 'ArrowRight' && folder) rows.focus(i + 1)
    else if (event.key === 'ArrowLeft' && folder && line.open) toggle(i).catch(() => {})
    else if (event.key === 'ArrowLeft' && line.parent) rows.focus(all.indexOf(line.parent))
    else return rows.key(event)
    event.preventDefault()
  })

  all = linesOf(top, null, root, 0)
  tell()
  rows.reset(all.length)
}

/** @param {Line|null} line */
function hasOdd(line) {
  for (; line; line = line.parent) if (line.entry?.odd) return true
  return false
}
