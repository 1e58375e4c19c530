package durable

// SkipByte has w go on at the second byte of the file, where nothing can be
// written directly, and not know it.
func (w *Writer) SkipByte() {
	w.direct = setDirect(w.f, true)
	w.page = newPage()
	w.off = 1
}
