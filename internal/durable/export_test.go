package durable

// Misalign gives w a buffer that no disk takes.
func (w *Writer) Misalign() {
	w.piece = &piece{make([]byte, pieceBytes+1)[1:]}
}
