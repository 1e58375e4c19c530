// The mark of an upload's state: a colour and a word.

import { h } from './dom.js'
import { words } from './words.js'

/** @param {string} name */
export const state = (name) => h('span', { class: 'state ' + name }, words.states[name] ?? name)
