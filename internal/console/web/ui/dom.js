// Elements. Text is always text: nothing here parses HTML.

/** @typedef {Node|string|null|undefined|false} Child */

/** Makes an element. Properties that begin with "on" are listeners, those in `data`
 * data attributes; booleans add or omit an attribute.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, any>|null} [props]
 * @param {...(Child|Child[])} children
 * @returns {HTMLElementTagNameMap[T]} */
export function h(tag, props, ...children) {
  const e = document.createElement(tag)
  for (const [name, value] of Object.entries(props ?? {})) set(e, name, value)
  e.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false))
  return e
}

/** @param {Element} e @param {string} name @param {any} value */
function set(e, name, value) {
  if (name.startsWith('on')) e.addEventListener(name.slice(2), value)
  else if (typeof value === 'boolean') e.toggleAttribute(name, value)
  else if (value !== null && value !== undefined) e.setAttribute(name, String(value))
}

const svgNS = 'http://www.w3.org/2000/svg'

/** @param {string} tag @param {Record<string, any>} props @param {...Element} children */
export function s(tag, props, ...children) {
  const e = document.createElementNS(svgNS, tag)
  for (const [name, value] of Object.entries(props)) set(e, name, value)
  e.append(...children)
  return e
}

/** Changes the text of an element only if it differs, which keeps a selection.
 * @param {Element} e @param {string} text */
export function say(e, text) {
  if (e.textContent !== text) e.textContent = text
}

/** A modal question. It resolves to true if the answer is yes.
 * @param {string} title @param {string} text @param {string} yes @param {string} no @param {Node} [extra] @param {boolean} [danger] */
export function ask(title, text, yes, no, extra, danger = false) {
  return new Promise((/** @type {(answer: boolean) => void} */ resolve) => {
    const dialog = h('dialog', { 'aria-labelledby': 'ask' },
      h('form', { method: 'dialog' },
        h('h2', { id: 'ask' }, title), h('p', null, text), extra,
        h('div', { class: 'buttons end' },
          h('button', { value: '', autofocus: true }, no),
          h('button', { value: 'yes', class: danger ? 'danger' : 'primary' }, yes))))
    // The policy of the page forbids to submit forms, even in dialogs.
    dialog.addEventListener('submit', (event) => {
      event.preventDefault()
      dialog.close(/** @type {HTMLButtonElement|null} */ (event.submitter)?.value)
    })
    dialog.addEventListener('close', () => {
      dialog.remove()
      resolve(dialog.returnValue === 'yes')
    })
    document.body.append(dialog)
    dialog.showModal()
  })
}

/** A bar that fills up. @param {string} label */
export function bar(label) {
  const fill = h('div')
  const e = h('div', { class: 'bar', role: 'progressbar', 'aria-label': label, 'aria-valuemin': 0, 'aria-valuemax': 100 }, fill)
  return {
    element: e,
    /** @param {number} part from 0 to 1 */
    set(part) {
      const percent = Math.max(0, Math.min(100, part * 100))
      fill.style.transform = `scaleX(${percent / 100})`
      e.setAttribute('aria-valuenow', percent.toFixed(0))
    },
  }
}

/** A list of any length. Only visible rows are in the page. All rows have
 * the same height; the window scrolls. */
export class Rows {
  /** @param {HTMLElement} element contains the rows
   * @param {number} height of a row
   * @param {(index: number) => HTMLElement} render
   * @param {(first: number, last: number) => void} [seen] */
  constructor(element, height, render, seen) {
    this.element = element
    this.height = height
    this.render = render
    this.seen = seen
    this.count = 0
    /** @type {Map<number, HTMLElement>} */
    this.shown = new Map()
    this.waiting = 0
    this.stopper = new AbortController()
    element.classList.add('rows')
    const later = () => { this.waiting ||= requestAnimationFrame(() => { this.waiting = 0; this.update() }) }
    for (const type of ['scroll', 'resize']) addEventListener(type, later, { signal: this.stopper.signal, passive: true })
    this.later = later
  }

  stop() {
    this.stopper.abort()
    cancelAnimationFrame(this.waiting)
  }

  /** Sets the number of rows, and renders the visible ones again.
   * @param {number} count */
  reset(count) {
    const focused = this.focused()
    this.count = count
    this.element.style.height = count * this.height + 'px'
    for (const e of this.shown.values()) e.remove()
    this.shown.clear()
    this.update()
    if (focused >= 0) this.focus(Math.min(focused, count - 1))
  }

  /** Renders a row again. @param {number} index */
  refresh(index) {
    const old = this.shown.get(index)
    if (!old) return
    const had = old.contains(document.activeElement)
    const e = this.row(index)
    old.replaceWith(e)
    if (had) e.focus()
  }

  /** @param {number} index */
  row(index) {
    const e = this.render(index)
    e.style.transform = `translateY(${index * this.height}px)`
    e.style.height = this.height + 'px'
    this.shown.set(index, e)
    return e
  }

  update() {
    const top = this.element.getBoundingClientRect().top
    const margin = 12
    // Some rows exist even if none is visible, for keyboard users.
    const first = Math.max(0, Math.min(Math.floor(-top / this.height), this.count) - margin)
    const last = Math.min(this.count - 1, Math.max(Math.ceil((innerHeight - top) / this.height), 0) + margin)
    for (const [i, e] of this.shown) {
      if ((i < first || i > last) && !e.contains(document.activeElement)) {
        e.remove()
        this.shown.delete(i)
      }
    }
    for (let i = first; i <= last; i++) {
      if (this.shown.has(i)) continue
      const e = this.row(i)
      let next = null // rows stay in order, for keyboards and screen readers
      for (let j = i + 1; j <= last && !next; j++) next = this.shown.get(j) ?? null
      this.element.insertBefore(e, next)
    }
    if (last >= first) this.seen?.(first, last)
  }

  focused() {
    return this.indexOf(document.activeElement)
  }

  /** The row that contains a node, or -1. @param {EventTarget|null} node */
  indexOf(node) {
    for (const [i, e] of this.shown) if (node instanceof Node && e.contains(node)) return i
    return -1
  }

  /** @param {number} index */
  focus(index) {
    if (index < 0 || index >= this.count) return
    const top = this.element.getBoundingClientRect().top + index * this.height
    const bars = 60
    if (top < bars) scrollBy(0, top - bars)
    else if (top + this.height > innerHeight) scrollBy(0, top + this.height - innerHeight + 8)
    this.update()
    this.shown.get(index)?.focus({ preventScroll: true })
  }

  /** Moves the focus with the keyboard. @param {KeyboardEvent} event */
  key(event) {
    const at = this.focused()
    const page = Math.max(1, Math.floor(innerHeight / this.height) - 2)
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: this.count - 1 }[event.key]
    if (at < 0 || to === undefined || event.altKey || event.ctrlKey || event.metaKey) return
    event.preventDefault()
    this.focus(Math.max(0, Math.min(this.count - 1, to)))
  }
}

/** A button that copies a text. @param {string} text @param {string} label @param {string} done */
export function copier(text, label, done) {
  const b = h('button', { class: 'small', 'aria-live': 'polite' }, label)
  b.addEventListener('click', async () => {
    try {
      await navigator.clipboard.writeText(text)
    } catch {
      // Without TLS this is the only clipboard.
      const area = h('textarea', { class: 'away', readonly: true })
      area.value = text
      document.body.append(area)
      area.select()
      document.execCommand('copy')
      area.remove()
      b.focus()
    }
    b.textContent = done
    setTimeout(() => { b.textContent = label }, 1500)
  })
  return b
}
