// Numbers and times as people read them.

const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']

/** @param {number} n */
export function bytes(n) {
  let unit = 0
  while (n >= 999.5 && unit < units.length - 1) {
    n /= 1000
    unit++
  }
  return `${n >= 100 || unit === 0 ? Math.round(n) : n.toPrecision(3)} ${units[unit]}`
}

/** @param {number} n */
export function rate(n) {
  return bytes(n) + '/s'
}

/** @param {number} n */
export function number(n) {
  return n >= 100 || Number.isInteger(n) ? Math.round(n).toLocaleString('en') : n.toPrecision(2)
}

/** @param {number} s */
export function duration(s) {
  s = Math.ceil(s)
  if (s < 60) return `${s} s`
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`
}

const day = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium' })
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short' })

/** @param {number} ms */
export const date = (ms) => day.format(ms)

/** @param {number} ms */
export const dateTime = (ms) => moment.format(ms)

/** @param {string} cid */
export const shortCID = (cid) => (cid.length > 20 ? cid.slice(0, 10) + '…' + cid.slice(-6) : cid)
