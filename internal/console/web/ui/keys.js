// The keys of the user who is signed in.

import { ask, copier, h } from './dom.js'
import { body, json } from './api.js'
import { date } from './format.js'
import { words } from './words.js'

/** @typedef {{id: number, name: string, secret?: string, inserted_at: string}} Key */

/** @type {import('./app.js').Page} */
export async function keysPage(main, { signal, session }) {
  const w = words.keys
  const name = h('input', { id: 'key-name', required: true, maxlength: 200, autocomplete: 'off' })
  const form = h('form', { class: 'inline' }, h('label', { for: 'key-name' }, w.name), name, h('button', { class: 'primary' }, w.make))
  const made = h('div', { role: 'status' })
  const problem = h('p', { class: 'problem', role: 'alert' })
  const rows = h('tbody')
  main.append(h('div', { class: 'head' }, h('h1', null, w.title)), h('p', { class: 'muted' }, w.hint), form, problem, made,
    h('table', { class: 'wide' }, h('thead', null, h('tr', null, h('th', null, w.columns.name), h('th', null, w.columns.date), h('th', null))), rows))

  async function load() {
    /** @type {{value: Key[]}} */
    const { value } = await json('api/internal/tokens', { signal })
    rows.replaceChildren(...value.map((k) => h('tr', null,
      h('td', { class: 'break' }, k.name, k.id === session.keyId ? h('span', { class: 'muted' }, ` (${w.this})`) : null),
      h('td', null, date(Date.parse(k.inserted_at))),
      h('td', { class: 'end' }, h('button', { class: 'small', onclick: () => revoke(k) }, w.revoke)))))
  }

  /** @param {Key} k */
  async function revoke(k) {
    if (!await ask(w.revokeTitle, w.revokeText(k.name), w.revokeYes, words.cancel, undefined, true)) return
    await tried(() => json('api/internal/tokens', body({ id: k.id }, 'DELETE')))
  }

  /** @param {() => Promise<any>} f */
  async function tried(f) {
    problem.textContent = ''
    try {
      const answer = await f()
      await load()
      return answer
    } catch (e) {
      problem.textContent = /** @type {Error} */ (e).message
    }
  }

  form.addEventListener('submit', async (event) => {
    event.preventDefault()
    const answer = await tried(() => json('api/internal/tokens', body({ name: name.value })))
    if (!answer) return
    const secret = answer.value.secret
    name.value = ''
    made.replaceChildren(h('p', null, w.made), h('p', { class: 'line' }, h('code', { class: 'break' }, secret), copier(secret, words.copy, words.copied)))
  })
  await load()
}
