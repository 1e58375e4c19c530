// Signing in.

import { copier, h } from './dom.js'
import { signIn } from './api.js'
import { words } from './words.js'

/** @param {() => Promise<void>} done @param {string} problem */
export function signInPage(done, problem) {
  const w = words.signIn
  const key = h('input', { id: 'key', type: 'password', autocomplete: 'off', spellcheck: 'false', required: true })
  const say = h('p', { class: 'problem', role: 'alert' }, problem)
  const go = h('button', { class: 'primary' }, w.go)
  const form = h('form', null, h('label', { for: 'key' }, w.key), key, go)
  form.addEventListener('submit', async (event) => {
    event.preventDefault()
    go.disabled = true
    go.textContent = w.going
    try {
      await signIn({ key: key.value })
      await done()
    } catch (e) {
      say.textContent = /** @type {Error} */ (e).message
      key.select()
    }
    go.disabled = false
    go.textContent = w.go
  })
  return h('main', { class: 'sign-in' },
    h('h1', null, h('img', { src: '/console/assets/icon.svg', alt: '', width: 32, height: 32 }), words.title),
    h('p', null, w.hint), h('p', { class: 'line' }, h('code', null, w.command), copier(w.command, words.copy, words.copied)),
    h('p', null, w.or), form, say)
}
