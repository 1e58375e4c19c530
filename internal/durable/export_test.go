package durable

// SkipByte makes w continue at the second byte of the file without knowing it.
// Nothing can be written directly there.
func (w *Writer) SkipByte() {
	w.direct = setDirect(w.f, true)
	w.page = newPage()
	w.off = 1
}
