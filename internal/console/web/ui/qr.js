/*! uqr, https://github.com/unjs/uqr, after the QR Code generator of Project Nayuki

MIT License

Copyright (c) Project Nayuki
Copyright (c) 2023 Anthony Fu <https://github.com/antfu>

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
*/

// QR codes.

import { encode } from 'uqr'
import { s } from './dom.js'
import { words } from './words.js'

/** @param {string} text */
export function qr(text) {
  const { data, size } = encode(text, { border: 2 })
  let d = ''
  data.forEach((line, y) => line.forEach((dark, x) => { if (dark) d += `M${x} ${y}h1v1h-1z` }))
  return s('svg', { viewBox: `0 0 ${size} ${size}`, role: 'img', 'aria-label': words.upload.qrOf(text) },
    s('rect', { width: size, height: size, fill: '#fff' }), s('path', { d, fill: '#000' }))
}
