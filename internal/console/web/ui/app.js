// The frame of the pages: who is signed in, and which page is shown.

import { Refused, events, session, signIn, signOut, whenSignedOut } from './api.js'
import { ask, h, say } from './dom.js'
import { words } from './words.js'
import { addPage, forgetAll, running, stopAll, whenRunning } from './add.js'
import { keysPage } from './keys.js'
import { servicePage } from './service.js'
import { signInPage } from './signin.js'
import { uploadPage } from './upload.js'
import { forgetWanted, uploadsPage } from './uploads.js'

/** What a page receives.
 * @typedef {object} Context
 * @property {AbortSignal} signal aborted when another page is shown
 * @property {import('./api.js').Session} session
 * @property {(f: (name: string) => void) => void} listen calls f when something may have changed
 * @property {string} param what follows the page's name */

/** @typedef {(main: HTMLElement, context: Context) => void|Promise<void>} Page */

/** @type {Record<string, {page: Page, title: string, nav: string}>} */
const pages = {
  '': { page: uploadsPage, title: words.uploads.title, nav: '' },
  upload: { page: uploadPage, title: words.uploads.title, nav: '' },
  add: { page: addPage, title: words.add.title, nav: 'add' },
  service: { page: servicePage, title: words.service.title, nav: 'service' },
  keys: { page: keysPage, title: words.keys.title, nav: 'keys' },
}

const main = h('main', { id: 'content', tabindex: -1 })
const busy = h('a', { href: '#/add', class: 'running', hidden: true })
/** @type {Record<string, HTMLAnchorElement>} */
const links = {}
for (const [name, text] of [['', words.nav.uploads], ['add', words.nav.add], ['service', words.nav.service], ['keys', words.nav.keys]]) {
  links[name] = h('a', { href: '#/' + name }, text)
}
const frame = h('header', null,
  h('a', { class: 'skip', href: '#content', onclick: skip }, words.skip),
  h('a', { class: 'brand', href: '#/' }, h('img', { src: '/console/assets/icon.svg', alt: '', width: 22, height: 22 }), words.title),
  h('nav', { 'aria-label': words.nav.label }, Object.values(links)),
  busy,
  h('button', { class: 'quiet', onclick: leave }, words.nav.out))

/** @param {Event} event */
function skip(event) {
  event.preventDefault()
  main.focus()
}

/** @type {import('./api.js').Session|null} */
let who = null
let shown = new AbortController()
let listening = new AbortController()
/** @type {Set<(name: string) => void>} */
const listeners = new Set()

function show() {
  if (!who) return
  const [name = '', ...rest] = location.hash.replace(/^#\/?/, '').split('/')
  const at = pages[name] ?? pages['']
  shown.abort()
  shown = new AbortController()
  listeners.clear()
  main.replaceChildren()
  scrollTo(0, 0)
  document.title = `${at.title} · ${words.title}`
  for (const [key, a] of Object.entries(links)) a.toggleAttribute('aria-current', key === at.nav)
  for (const [key, a] of Object.entries(links)) if (key === at.nav) a.setAttribute('aria-current', 'page')
  const { signal } = shown
  const context = { signal, session: who, param: rest.join('/'), listen: (/** @type {(name: string) => void} */ f) => { if (!signal.aborted) listeners.add(f) } }
  Promise.resolve(at.page(main, context)).catch((e) => {
    if (signal.aborted) return
    main.append(h('p', { class: 'problem', role: 'alert' }, e instanceof Refused ? e.message : String(e), ' ',
      h('button', { onclick: show }, words.again)))
  })
}

/** Shows the pages, or the sign-in page. */
async function start() {
  const code = /^#code=([\w-]+)$/.exec(location.hash)?.[1]
  let problem = ''
  if (code) {
    history.replaceState(null, '', '#/') // the code is used up, and must not stay in the history
    try {
      await signIn({ code })
    } catch (e) {
      problem = /** @type {Error} */ (e).message
    }
  }
  try {
    who = await session()
  } catch (e) {
    if (e instanceof Refused && e.status !== 401 && e.status !== 403) problem = e.message
    signedOut(problem)
    return
  }
  document.body.replaceChildren(frame, main)
  listening = new AbortController()
  events((name) => { for (const f of listeners) f(name) }, listening.signal)
  show()
}

function signedOut(problem = '') {
  who = null
  forgetWanted()
  shown.abort()
  listening.abort()
  document.title = words.title
  document.body.replaceChildren(signInPage(start, problem))
}

async function leave() {
  const forget = h('input', { type: 'checkbox' })
  if (!await ask(words.out.title, words.out.text, words.out.yes, words.cancel, h('label', { class: 'check' }, forget, words.out.forget))) return
  stopAll()
  if (forget.checked) await forgetAll()
  await signOut().catch(() => {}) // without the service there is no session
  history.replaceState(null, '', '#/')
  signedOut()
}

whenRunning(() => {
  const n = running()
  busy.hidden = n === 0
  if (n) say(busy, words.running(n))
})
whenSignedOut(() => { if (who) signedOut() })
addEventListener('hashchange', () => {
  if (location.hash.startsWith('#code=')) start()
  else show()
})
addEventListener('beforeunload', (event) => { if (running()) event.preventDefault() })
start()
